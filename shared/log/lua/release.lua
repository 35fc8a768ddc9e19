-- Gives a lease back at once, for a drain: the turn is due now, and it is counted against nobody.
--
-- KEYS  1 turn  2 due  3 leases
-- ARGV  1 now  2 member  3 token
-- Returns  'OK'  'FENCED'
local turn = fields(KEYS[1], 'token', 'status')
if turn.token ~= ARGV[3] or turn.status ~= 'in_progress' then return 'FENCED' end
redis.call('HSET', KEYS[1], 'released', 1)
redis.call('HDEL', KEYS[1], 'token', 'deadline', 'worker')
redis.call('ZREM', KEYS[3], ARGV[2])
redis.call('ZADD', KEYS[2], int(now_us()), ARGV[2])
return 'OK'
