-- Looks at one overdue or lapsed turn and decides what happens next.
--
-- KEYS  1 turn  2 events  3 session queue  4 due  5 leases  6 ended  7 session
-- ARGV  1 now  2 turn id  3 member  4 max attempts after lapses  5 channel
--       6.. event for too many lapses (4)  10.. event for an input timeout (4)
-- Returns  {'HINT'} send a hint  {'ENDED', next turn id or ''}  {'NOTHING'}
local MAX_BACKOFF_US = 60 * 1000000

local now = now_us()
local turn = fields(KEYS[1], 'status', 'token', 'deadline', 'lease', 'epoch', 'last', 'lapses', 'hints')
if not turn.status or TERMINAL[turn.status] then
  redis.call('ZREM', KEYS[4], ARGV[3])
  redis.call('ZREM', KEYS[5], ARGV[3])
  return {'NOTHING'}
end

local function fail(first)
  local epoch = next_epoch(turn.epoch, now)
  local last = write_events(KEYS[2], epoch, tonumber(turn.last), first, 1)
  redis.call('HSET', KEYS[1], 'status', 'failed', 'epoch', int(epoch), 'last', int(last))
  redis.call('HDEL', KEYS[1], 'token', 'deadline', 'pending')
  redis.call('ZREM', KEYS[4], ARGV[3])
  redis.call('ZREM', KEYS[5], ARGV[3])
  redis.call('ZADD', KEYS[6], int(now), ARGV[3])
  local next_id = advance(KEYS[3], KEYS[4], ARGV[3], ARGV[2], now)
  rest(KEYS[7], KEYS[3], KEYS[4], ARGV[3], ARGV[2], now)
  redis.call('PUBLISH', ARGV[5], ARGV[3])
  return {'ENDED', next_id}
end

if turn.token then
  if lease_end(turn, KEYS[1], KEYS[5], ARGV[3], now) > now then return {'NOTHING'} end
  if tonumber(turn.lapses or 0) + 1 >= tonumber(ARGV[4]) then return fail(6) end
  redis.call('HSET', KEYS[1], 'lapsed', 1)
  redis.call('HDEL', KEYS[1], 'token', 'deadline', 'worker')
  redis.call('ZREM', KEYS[5], ARGV[3])
  redis.call('ZADD', KEYS[4], int(now + HINT_DELAY_US), ARGV[3])
  return {'HINT'}
end

local due = redis.call('ZSCORE', KEYS[4], ARGV[3])
if not due or tonumber(due) > now then return {'NOTHING'} end
if turn.status == 'awaiting_input' then return fail(10) end
if redis.call('LINDEX', KEYS[3], 0) ~= ARGV[2] then
  redis.call('ZREM', KEYS[4], ARGV[3]) -- its turn comes when the one before it ends
  return {'NOTHING'}
end
local hints = redis.call('HINCRBY', KEYS[1], 'hints', 1)
redis.call('ZADD', KEYS[4], int(now + math.min(HINT_DELAY_US * 2 ^ (hints - 1), MAX_BACKOFF_US)), ARGV[3])
return {'HINT'}
