-- Claims a turn for a worker: new epoch, the caller's token, a lease.
--
-- KEYS  1 turn  2 events  3 session queue  4 due  5 leases  6 private  7 limits  8 queued (counts)
-- ARGV  1 now  2 turn id  3 member  4 token  5 lease in µs  6 newest schema version that the caller reads
--       7 worker name  8 display time  9 channel  10 schema version of the written event
-- Returns  {'CLAIMED', kind, epoch, last, plast, attempts, ordinal, first event entry, first private entry}
--            with kind start | recovered | resumed; the two entries only for start (they save a round trip)
--          {'BUSY'} live lease  {'ENDED'} terminal  {'AWAITING'}  {'NOT_HEAD'}  {'NEWER', schema}  {'GONE'}
--          {'EXPIRED'} one of its limits has passed: the reaper ends it
-- Repeated with the same token while its lease lives: the same answer.
local now = now_us()
local turn = fields(KEYS[1], 'status', 'schema', 'epoch', 'token', 'deadline', 'lease', 'last', 'plast', 'attempts',
  'lapsed', 'released', 'ordinal', 'claim_kind', 'start_by', 'end_by', 'counted')
if not turn.status then return {'GONE'} end
if TERMINAL[turn.status] then return {'ENDED'} end
if turn.status == 'awaiting_input' then return {'AWAITING'} end
if tonumber(turn.schema) > tonumber(ARGV[6]) then return {'NEWER', turn.schema} end

local function answer(kind, epoch, last, attempts)
  local reply = {'CLAIMED', kind, int(epoch), int(last), turn.plast, int(attempts), turn.ordinal}
  if kind == 'start' then
    reply[8] = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
    reply[9] = redis.call('XRANGE', KEYS[6], '-', '+', 'COUNT', 1)
  end
  return reply
end

local lease = tonumber(ARGV[5])
if turn.token then
  local live = lease_end(turn, KEYS[1], KEYS[5], ARGV[3], now) > now
  if turn.token == ARGV[4] and live then
    return answer(turn.claim_kind, tonumber(turn.epoch), tonumber(turn.last), tonumber(turn.attempts))
  end
  if live then return {'BUSY'} end
end
if redis.call('LINDEX', KEYS[3], 0) ~= ARGV[2] then return {'NOT_HEAD'} end
local start_by = turn.attempts == '0' and turn.start_by
if math.min(tonumber(start_by or math.huge), tonumber(turn.end_by or math.huge)) <= now then return {'EXPIRED'} end

local epoch = next_epoch(turn.epoch, now)
local last, attempts = tonumber(turn.last), tonumber(turn.attempts)
local lapsed = turn.token or turn.lapsed
local kind = 'resumed'
if attempts == 0 then kind = 'start' elseif lapsed or turn.released then kind = 'recovered' end
if kind ~= 'resumed' then
  attempts = attempts + 1
  last = last + 1
  local event_type = kind == 'start' and 'turn_start' or 'turn_recovered'
  local time_field = kind == 'start' and 'started_at' or 'recovered_at'
  local payload = '{"event_type":"' .. event_type .. '","turn_id":"' .. ARGV[2] .. '","attempt":' .. int(attempts)
    .. ',"' .. time_field .. '":"' .. ARGV[8] .. '"}'
  local news = {after = last_id(turn)}
  news[1] = write_event(KEYS[2], int(last) .. '-' .. int(epoch), event_type, ARGV[10], 'p', payload)
  redis.call('HSET', KEYS[1], 'written', int(now))
  notify(ARGV[9], ARGV[3], news)
end
if lapsed then redis.call('HINCRBY', KEYS[1], 'lapses', 1) end
redis.call('HDEL', KEYS[1], 'lapsed', 'released', 'hints')
-- What it writes from now on is of its own schema: an older worker that comes to take over must see that at once.
local schema = math.max(tonumber(turn.schema), tonumber(ARGV[10]))
redis.call('HSET', KEYS[1], 'status', 'in_progress', 'epoch', int(epoch), 'token', ARGV[4],
  'deadline', int(now + lease), 'lease', int(lease), 'last', int(last), 'attempts', int(attempts), 'worker', ARGV[7], 'claim_kind', kind,
  'schema', int(schema))
redis.call('ZREM', KEYS[4], ARGV[3])
redis.call('ZADD', KEYS[5], int(now + lease), ARGV[3])
if kind == 'start' then
  uncount(KEYS[1], KEYS[8], turn.counted)
  if turn.start_by or turn.end_by then set_limit(KEYS[7], ARGV[3], {attempts = attempts, end_by = turn.end_by}) end
end
return answer(kind, epoch, last, attempts)
