-- Ends a turn from outside, as canceled or as failed: one that nobody runs ends now; a running one is flagged and its
-- owner told.
--
-- KEYS  1-11 as for every end of a turn
-- ARGV  1 now  2 turn id  3 member  4 mode: 'ask', or 'end' to end a running one too  5 channel of the shard
--       6 control channel of the workers  7 status that it ends with  8.. event (4)
-- Returns  {'ENDED', next turn id or ''}  {'ASKED'}  {'TERMINAL', status}  {'GONE'}
local keys = end_keys()
local turn = fields(keys.turn, 'status', 'token', 'deadline', 'epoch', 'last', 'counted')
if not turn.status then return {'GONE'} end
if TERMINAL[turn.status] then return {'TERMINAL', turn.status} end

local now = now_us()
local running = turn.token and tonumber(turn.deadline) > now
if turn.token then redis.call('PUBLISH', ARGV[6], ARGV[3]) end
if running and ARGV[4] == 'ask' then
  redis.call('HSET', keys.turn, 'cancel', 1)
  return {'ASKED'}
end
local next_id = end_turn(keys, turn, ARGV[2], ARGV[3], ARGV[7], 8, now)
notify(ARGV[5], ARGV[3])
return {'ENDED', next_id}
