-- Cancels a turn: one that nobody runs ends now; a running one is flagged and its owner told.
--
-- KEYS  1 turn  2 events  3 session queue  4 due  5 leases  6 ended (turns without a snapshot)  7 session
-- ARGV  1 now  2 turn id  3 member  4 mode: 'ask', or 'end' to end a running one too (its session is deleted)
--       5 channel of the shard  6 control channel of the workers  7.. event (4)
-- Returns  {'ENDED', next turn id or ''}  {'ASKED'}  {'TERMINAL', status}  {'GONE'}
local turn = fields(KEYS[1], 'status', 'token', 'deadline', 'epoch', 'last')
if not turn.status then return {'GONE'} end
if TERMINAL[turn.status] then return {'TERMINAL', turn.status} end

local now = now_us()
local running = turn.token and tonumber(turn.deadline) > now
if turn.token then redis.call('PUBLISH', ARGV[6], ARGV[3]) end
if running and ARGV[4] == 'ask' then
  redis.call('HSET', KEYS[1], 'cancel', 1)
  return {'ASKED'}
end
local epoch = next_epoch(turn.epoch, now)
local last = write_events(KEYS[2], epoch, tonumber(turn.last), 7, 1)
redis.call('HSET', KEYS[1], 'status', 'canceled', 'epoch', int(epoch), 'last', int(last))
redis.call('HDEL', KEYS[1], 'token', 'deadline', 'cancel', 'pending')
redis.call('ZREM', KEYS[4], ARGV[3])
redis.call('ZREM', KEYS[5], ARGV[3])
redis.call('ZADD', KEYS[6], int(now), ARGV[3])
local next_id = advance(KEYS[3], KEYS[4], ARGV[3], ARGV[2], now)
rest(KEYS[7], KEYS[3], KEYS[4], ARGV[3], ARGV[2], now)
redis.call('PUBLISH', ARGV[5], ARGV[3])
return {'ENDED', next_id}
