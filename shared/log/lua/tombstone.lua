-- Marks a session as deleted: no turn is accepted any more. Due now for the sweep that ends and removes its turns.
--
-- KEYS  1 session  2 session queue  3 due
-- ARGV  1 now  2 member of the session
-- Returns  {'OK', the time it was deleted in µs, unfinished turn ids…}  {'GONE'}
local session = fields(KEYS[1], 'session_id', 'deleted')
if not session.session_id then return {'GONE'} end
local deleted = session.deleted or int(now_us())
redis.call('HSET', KEYS[1], 'deleted', deleted)
redis.call('ZADD', KEYS[3], deleted, ARGV[2])
local reply = {'OK', deleted}
for _, turn_id in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do reply[#reply + 1] = turn_id end
return reply
