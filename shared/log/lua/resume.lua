-- Brings a paused turn back into the queue with the client's tool responses.
--
-- KEYS  1 turn  2 events  3 due
-- ARGV  1 now  2 member  3 call ids of the responses (sorted, as JSON)  4 digest of the responses  5 channel
--       6.. event (4)
-- Returns  {'OK', seq of turn_resumed}  {'REPEATED', seq of the first time}  {'CALLS', pending call ids}
--          {'STATUS', status} it does not wait for input  {'GONE'}
local answered = 'resumed:' .. ARGV[4] -- at which seq these responses came
local turn = fields(KEYS[1], 'status', 'epoch', 'last', 'pending', answered, 'resume_digest', 'resume_seq')
if not turn.status then return {'GONE'} end
-- Pending calls come first: a provider may give its calls the same ids each time, and get the same answers.
local fits = turn.status == 'awaiting_input' and turn.pending == ARGV[3]
if not fits and turn[answered] then return {'REPEATED', turn[answered]} end
-- A release before this one kept the last ones only.
if not fits and turn.resume_digest == ARGV[4] then return {'REPEATED', turn.resume_seq} end
if turn.status ~= 'awaiting_input' then return {'STATUS', turn.status} end
if not fits then return {'CALLS', turn.pending} end

local now = now_us()
local epoch = next_epoch(turn.epoch, now)
local last, news = write_events(KEYS[2], epoch, tonumber(turn.last), 6, 1, last_id(turn))
redis.call('HSET', KEYS[1], 'status', 'queued', 'epoch', int(epoch), 'last', int(last),
  answered, int(last), 'written', int(now))
redis.call('HDEL', KEYS[1], 'pending', 'paused_by')
redis.call('ZADD', KEYS[3], int(now + HINT_DELAY_US), ARGV[2])
notify(ARGV[5], ARGV[2], news)
return {'OK', int(last)}
