-- Ends a turn that was not taken up in time, or has not ended in time: as failed, or as canceled where its running owner
-- was asked for that and has not done it.
--
-- KEYS  1-11 as for every end of a turn
-- ARGV  1 now  2 turn id  3 member  4 channel of the shard  5 control channel of the workers
--       6.. event where nobody took it up in time (4)  10.. event where its deadline has passed (4)
--       14.. event where cancel was asked for (4)
-- Returns  {'ENDED', next turn id or ''}  {'NOTHING'}
local keys = end_keys()
local now = now_us()
local turn = fields(keys.turn, 'status', 'token', 'epoch', 'last', 'attempts', 'start_by', 'end_by', 'counted',
  'cancel')
if not turn.status or TERMINAL[turn.status] then
  redis.call('ZREM', keys.limits, ARGV[3])
  return {'NOTHING'}
end

local function past(limit) return limit and tonumber(limit) <= now end

local at
if past(turn.end_by) then at = 10 elseif turn.attempts == '0' and past(turn.start_by) then at = 6 end
if not at then
  set_limit(keys.limits, ARGV[3], turn)
  return {'NOTHING'}
end
if turn.token then redis.call('PUBLISH', ARGV[5], ARGV[3]) end
local status = 'failed'
if turn.cancel then status, at = 'canceled', 14 end
local next_id = end_turn(keys, turn, ARGV[2], ARGV[3], status, at, now)
notify(ARGV[4], ARGV[3])
return {'ENDED', next_id}
