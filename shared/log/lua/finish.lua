-- Ends a turn: the last events, the terminal one among them, its snapshot; the session's next turn becomes due.
--
-- KEYS  1-11 as for every end of a turn  12 private
-- ARGV  1 now  2 turn id  3 member  4 token  5 expected last seq  6 expected last private seq  7 status
--       8 snapshot  9 channel  10 how long to keep the events, in ms  11 the hash's field for the snapshot
--       12 number of events (the last is the terminal one)  13.. canceled event (4)  17.. events (4 each)
-- Returns  {'OK', status, next turn id or ''}  {'FENCED'}  {'TAIL', last, plast}  {'GONE'}
-- Where cancel was asked for, the canceled event stands in for the terminal one and a janitor makes the snapshot.
-- Repeated with the same token after it has ended: the same answer (the next turn is due in any case).
local keys = end_keys()
local turn = fields(keys.turn, 'token', 'status', 'epoch', 'last', 'plast', 'cancel', 'counted')
if not turn.status then return {'GONE'} end
if turn.token ~= ARGV[4] then return {'FENCED'} end
if TERMINAL[turn.status] then return {'OK', turn.status, ''} end
if turn.status ~= 'in_progress' then return {'FENCED'} end
if turn.last ~= ARGV[5] or turn.plast ~= ARGV[6] then return {'TAIL', turn.last, turn.plast} end

local now = now_us()
local count = tonumber(ARGV[12])
local status = ARGV[7]
local last, news
if turn.cancel and status ~= 'canceled' then
  status = 'canceled'
  last = write_events(keys.events, turn.epoch, tonumber(turn.last), 17, count - 1)
  last = write_events(keys.events, turn.epoch, last, 13, 1)
  redis.call('ZADD', keys.ended, int(now), ARGV[3])
else
  last, news = write_events(keys.events, turn.epoch, tonumber(turn.last), 17, count, last_id(turn))
  redis.call('HSET', keys.turn, ARGV[11], ARGV[8])
  redis.call('PEXPIRE', keys.events, ARGV[10])
  clear_private(KEYS[12], status, ARGV[10])
end
redis.call('HSET', keys.turn, 'status', status, 'last', int(last), 'written', int(now))
redis.call('HDEL', keys.turn, 'deadline', 'cancel')
local next_id = leave(keys, ARGV[2], ARGV[3], status, turn.counted, now)
notify(ARGV[9], ARGV[3], news)
return {'OK', status, next_id}
