-- Appends a batch of events and private records, whole or not at all. Renews a lease that has less than half of it left,
-- which the heartbeat mostly keeps it from, or more than all: the clock has stepped.
--
-- KEYS  1 turn  2 events  3 private  4 leases
-- ARGV  1 now  2 member  3 token  4 expected last seq  5 expected last private seq  6 lease in µs  7 channel
--       8 number of events  9 number of private records  10.. events (4 each), then private records (3 each)
-- Returns  {'OK', last, plast, '1' if cancel was asked for}
--          {'FENCED'} another token, or the turn has ended  {'GONE'}
--          {'TAIL', last, plast} the log does not end at the expected seq
-- A live token is enough: a deadline that has passed does not refuse.
local turn = fields(KEYS[1], 'token', 'status', 'epoch', 'last', 'plast', 'cancel', 'deadline')
if not turn.status then return {'GONE'} end
if turn.token ~= ARGV[3] or turn.status ~= 'in_progress' then return {'FENCED'} end
if turn.last ~= ARGV[4] or turn.plast ~= ARGV[5] then return {'TAIL', turn.last, turn.plast} end

local now = now_us()
local n_events, n_private = tonumber(ARGV[8]), tonumber(ARGV[9])
local last, plast, news = tonumber(turn.last), tonumber(turn.plast), nil
if n_events > 0 then
  last, news = write_events(KEYS[2], turn.epoch, last, 10, n_events, last_id(turn))
end
if n_private > 0 then plast = write_private(KEYS[3], turn.epoch, plast, 10 + 4 * n_events, n_private) end
redis.call('HSET', KEYS[1], 'last', last, 'plast', plast, 'written', int(now))
local lease, left = tonumber(ARGV[6]), tonumber(turn.deadline) - now
if left < lease / 2 or left > lease then
  redis.call('HSET', KEYS[1], 'deadline', int(now + lease))
  redis.call('ZADD', KEYS[4], int(now + lease), ARGV[2])
end
for i = 0, n_events - 1 do
  -- A finished step shows that the turn gets on: only attempts without progress count.
  if ARGV[10 + 4 * i] == 'step_complete' then redis.call('HDEL', KEYS[1], 'lapses') break end
end
if n_events > 0 then notify(ARGV[7], ARGV[2], news) end
return {'OK', last, plast, turn.cancel or '0'}
