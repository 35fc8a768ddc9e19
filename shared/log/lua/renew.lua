-- Extends one turn's lease. The caller pipelines the turns of a shard.
--
-- KEYS  1 turn  2 leases
-- ARGV  1 now  2 member  3 token  4 lease in µs
-- Returns  'OK'  'CANCEL' extended, and cancel was asked for  'LOST' the token is not the owner's any more
local turn = fields(KEYS[1], 'token', 'status', 'cancel')
if turn.token ~= ARGV[3] or turn.status ~= 'in_progress' then return 'LOST' end
local deadline = int(now_us() + tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'deadline', deadline)
redis.call('ZADD', KEYS[2], deadline, ARGV[2])
return turn.cancel and 'CANCEL' or 'OK'
