-- Puts a turn to rest until the client answers tool calls. It stays the head of its session and holds no worker.
--
-- KEYS  1 turn  2 events  3 private  4 due  5 leases
-- ARGV  1 now  2 member  3 token  4 expected last seq  5 expected last private seq  6 pending call ids
--       (sorted, as JSON)  7 input timeout in µs  8 channel  9 number of events  10.. events (4 each)
-- Returns  {'OK', last}  {'CANCEL'} nothing written: end the turn instead  {'FENCED'}  {'TAIL', last, plast}
--          {'GONE'}
-- Repeated after its reply was lost: the same answer.
local turn = fields(KEYS[1], 'token', 'paused_by', 'status', 'epoch', 'last', 'plast', 'cancel', 'pending')
if not turn.status then return {'GONE'} end
if turn.paused_by == ARGV[3] then return {'OK', turn.last} end
if turn.token ~= ARGV[3] or turn.status ~= 'in_progress' then return {'FENCED'} end
if turn.last ~= ARGV[4] or turn.plast ~= ARGV[5] then return {'TAIL', turn.last, turn.plast} end
if turn.cancel then return {'CANCEL'} end

local now = now_us()
local last, news = write_events(KEYS[2], turn.epoch, tonumber(turn.last), 10, tonumber(ARGV[9]), last_id(turn))
redis.call('HSET', KEYS[1], 'status', 'awaiting_input', 'last', int(last), 'pending', ARGV[6], 'paused_by', ARGV[3],
  'written', int(now))
redis.call('HDEL', KEYS[1], 'token', 'deadline', 'worker', 'lapses')
redis.call('ZREM', KEYS[5], ARGV[2])
redis.call('ZADD', KEYS[4], int(now + tonumber(ARGV[7])), ARGV[2])
notify(ARGV[8], ARGV[2], news)
return {'OK', int(last)}
