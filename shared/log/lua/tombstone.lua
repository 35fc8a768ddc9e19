-- Marks a session as deleted: no turn is accepted any more. Due now for the sweep that ends and removes its turns.
--
-- KEYS  1 session  2 session queue  3 due
-- ARGV  1 now  2 member of the session  3 '1' to delete it only if it has been idle past its time
-- Returns  {'OK', the time it was deleted in µs, agent id, unfinished turn ids…}
--          {'ALIVE'} it is neither deleted nor past its idle time  {'GONE'}
local now = now_us()
local session = fields(KEYS[1], 'session_id', 'agent_id', 'deleted')
if not session.session_id then return {'GONE'} end
if ARGV[3] == '1' and not session.deleted then
  local due = redis.call('ZSCORE', KEYS[3], ARGV[2])
  if not due or tonumber(due) > now or redis.call('LLEN', KEYS[2]) > 0 then return {'ALIVE'} end
end
local deleted = session.deleted or int(now)
redis.call('HSET', KEYS[1], 'deleted', deleted)
redis.call('ZADD', KEYS[3], deleted, ARGV[2])
local reply = {'OK', deleted, session.agent_id}
for _, turn_id in ipairs(redis.call('LRANGE', KEYS[2], 0, -1)) do reply[#reply + 1] = turn_id end
return reply
