-- Accepts a turn: hash, event 1 and the private record's first entry; appends it to its session's queue.
--
-- KEYS  1 session  2 session queue  3 session turns index  4 turn  5 events  6 private  7 due
--       8 idempotency scope (the session's key again where the caller sent no key)
-- ARGV  1 now  2 turn id  3 member  4 tenant  5 session id  6 agent id  7 digest of the request's body
--       8 '1' if KEYS[8] is an idempotency key  9 '1' if an SDK retries without a key  10 schema version
--       11 channel  12.. event (4)  16.. private record (3)
-- Returns  {'ACCEPTED', turn id, '1' if it is the head}  {'REPEATED', turn id of the first time}
--          {'MISMATCH'} same idempotency key, other body  {'NO_SESSION'}
local IDEMPOTENCY_S = 86400
local RETRY_WINDOW_US = 200 * 1000000 -- an SDK's last retry leaves within its timeouts and backoffs

local now = now_us()
local turn_id = ARGV[2]
local session = fields(KEYS[1], 'session_id', 'deleted', 'latest_turn', 'latest_digest', 'latest_us')
if redis.call('EXISTS', KEYS[4]) == 1 then return {'REPEATED', turn_id} end
if not session.session_id or session.deleted then return {'NO_SESSION'} end
if ARGV[8] == '1' then
  local first = redis.call('HMGET', KEYS[8], 'turn_id', 'digest')
  if first[1] then
    if first[2] ~= ARGV[7] then return {'MISMATCH'} end
    return {'REPEATED', first[1]}
  end
elseif ARGV[9] == '1' and session.latest_digest == ARGV[7]
  and now - tonumber(session.latest_us) <= RETRY_WINDOW_US then
  return {'REPEATED', session.latest_turn}
end

local ordinal = redis.call('HINCRBY', KEYS[1], 'turns', 1)
redis.call('HSET', KEYS[1], 'latest_turn', turn_id, 'latest_digest', ARGV[7], 'latest_us', int(now))
redis.call('HSET', KEYS[4], 'tenant', ARGV[4], 'session_id', ARGV[5], 'agent_id', ARGV[6], 'status', 'queued',
  'schema', ARGV[10], 'epoch', int(now), 'last', 1, 'plast', 1, 'attempts', 0, 'digest', ARGV[7],
  'created_us', int(now), 'ordinal', ordinal)
write_events(KEYS[5], now, 0, 12, 1)
write_private(KEYS[6], now, 0, 16, 1)
redis.call('ZADD', KEYS[3], ordinal, turn_id)
local length = redis.call('RPUSH', KEYS[2], turn_id)
if length == 1 then
  redis.call('ZADD', KEYS[7], int(now + HINT_DELAY_US), ARGV[3])
  redis.call('ZREM', KEYS[7], string.sub(ARGV[3], 1, -#turn_id - 1)) -- the session is not idle any more
end
if ARGV[8] == '1' then
  redis.call('HSET', KEYS[8], 'turn_id', turn_id, 'digest', ARGV[7])
  redis.call('EXPIRE', KEYS[8], IDEMPOTENCY_S)
  redis.call('HSET', KEYS[4], 'idempotency', KEYS[8]) -- it goes when its session goes
end
redis.call('PUBLISH', ARGV[11], ARGV[3])
return {'ACCEPTED', turn_id, length == 1 and '1' or '0'}
