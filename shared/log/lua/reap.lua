-- Looks at one overdue or lapsed turn and decides what happens next.
--
-- KEYS  1-11 as for every end of a turn
-- ARGV  1 now  2 turn id  3 member  4 max attempts after lapses  5 channel
--       6.. event for too many lapses (4)  10.. event for an input timeout (4)
--       14.. event for a cancel whose owner was lost before it heard of it (4)
-- Returns  {'HINT'} send a hint  {'ENDED', next turn id or ''}  {'NOTHING'}
local MAX_BACKOFF_US = 60 * 1000000

local keys = end_keys()
local now = now_us()
local turn = fields(keys.turn, 'status', 'token', 'deadline', 'lease', 'epoch', 'last', 'lapses', 'cancel', 'counted')
if not turn.status or TERMINAL[turn.status] then
  redis.call('ZREM', keys.due, ARGV[3])
  redis.call('ZREM', keys.leases, ARGV[3])
  return {'NOTHING'}
end

local function ends(status, at)
  local next_id = end_turn(keys, turn, ARGV[2], ARGV[3], status, at, now)
  notify(ARGV[5], ARGV[3])
  return {'ENDED', next_id}
end

if turn.token then
  if lease_end(turn, keys.turn, keys.leases, ARGV[3], now) > now then return {'NOTHING'} end
  if turn.cancel then return ends('canceled', 14) end
  if tonumber(turn.lapses or 0) + 1 >= tonumber(ARGV[4]) then return ends('failed', 6) end
  redis.call('HSET', keys.turn, 'lapsed', 1)
  redis.call('HDEL', keys.turn, 'token', 'deadline', 'worker')
  redis.call('ZREM', keys.leases, ARGV[3])
  redis.call('ZADD', keys.due, int(now + HINT_DELAY_US), ARGV[3])
  return {'HINT'}
end

local due = redis.call('ZSCORE', keys.due, ARGV[3])
if not due or tonumber(due) > now then return {'NOTHING'} end
if turn.status == 'awaiting_input' then return ends('failed', 10) end
if redis.call('LINDEX', keys.queue, 0) ~= ARGV[2] then
  redis.call('ZREM', keys.due, ARGV[3]) -- its turn comes when the one before it ends
  return {'NOTHING'}
end
local hints = redis.call('HINCRBY', keys.turn, 'hints', 1)
redis.call('ZADD', keys.due, int(now + math.min(HINT_DELAY_US * 2 ^ (hints - 1), MAX_BACKOFF_US)), ARGV[3])
return {'HINT'}
