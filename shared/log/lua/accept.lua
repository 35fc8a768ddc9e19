-- Accepts a turn: hash, event 1 and the private record's first entry; appends it to its session's queue.
--
-- KEYS  1-11 as for every end of a turn; 1 and 2 are the new turn's  12 private  13 session turns index
--       14 index of all turns  15 idempotency scope (the session's key again where the caller sent no key)
--       16.. turn and events of each turn that is to make way (2 each)
-- ARGV  1 now  2 turn id  3 member  4 tenant  5 session id  6 agent id  7 digest of the request's body
--       8 '1' if KEYS[15] is an idempotency key  9 '1' if an SDK retries without a key  10 schema version
--       11 channel  12 control channel of the workers
--       13 strategy where earlier turns have not ended: enqueue, reject, interrupt, rollback; '' for the session's
--       14 time in µs within which somebody has to take it up, or ''  15 within which it has to end, or ''
--       16 the agent's field in the counts, or '' where nothing is bounded  17 the turn that this one repeats, or ''
--       18 '1' where no new turn is to be taken: as many wait as may
--       19.. event (4)  23.. private record (3)  26.. of each turn that is to make way: id, canceled event (4)
-- Returns  {'ACCEPTED', turn id, '1' if it is the head}  {'REPEATED', turn id of the first time}
--          {'MISMATCH'} same idempotency key, other body  {'NO_SESSION'} also where it is another agent's
--          {'BUSY', turn id} refused: that one has not ended  {'FULL'} refused: see ARGV[18]
--          {'MAKE_WAY', turn ids…} the session's unfinished turns are these: call again, with all of them
-- A turn that was rolled back stays in its session's index with half a number more than its ordinal: it is still found
-- in its place, and left out of what later turns remember.
local IDEMPOTENCY_S = 86400
local RETRY_WINDOW_US = 200 * 1000000 -- an SDK's last retry leaves within its timeouts and backoffs

local keys = end_keys()
local index, scope = KEYS[13], KEYS[15]
local now = now_us()
local turn_id, member = ARGV[2], ARGV[3]
local session = fields(keys.session, 'session_id', 'deleted', 'latest_turn', 'latest_digest', 'latest_us',
  'multitask_strategy', 'agent_id')
if redis.call('EXISTS', keys.turn) == 1 then return {'REPEATED', turn_id} end
if not session.session_id or session.deleted or session.agent_id ~= ARGV[6] then return {'NO_SESSION'} end
if ARGV[8] == '1' then
  local first = redis.call('HMGET', scope, 'turn_id', 'digest')
  if first[1] then
    if first[2] ~= ARGV[7] then return {'MISMATCH'} end
    return {'REPEATED', first[1]}
  end
elseif ARGV[9] == '1' and session.latest_digest == ARGV[7]
  and now - tonumber(session.latest_us) <= RETRY_WINDOW_US then
  return {'REPEATED', session.latest_turn}
end

local strategy = ARGV[13] ~= '' and ARGV[13] or session.multitask_strategy or 'enqueue'
local unfinished = redis.call('LRANGE', keys.queue, 0, -1)
if strategy == 'reject' and unfinished[1] then return {'BUSY', unfinished[1]} end
if ARGV[18] == '1' then return {'FULL'} end -- before anything makes way for it
if (strategy == 'interrupt' or strategy == 'rollback') and unfinished[1] then
  for i = 1, #unfinished do
    if unfinished[i] ~= ARGV[21 + 5 * i] then
      table.insert(unfinished, 1, 'MAKE_WAY')
      return unfinished
    end
  end
  for i = #unfinished, 1, -1 do -- from the tail, so that none of them becomes the head
    local own = setmetatable({turn = KEYS[14 + 2 * i], events = KEYS[15 + 2 * i]}, {__index = keys})
    local turn = fields(own.turn, 'epoch', 'last', 'token', 'counted', 'ordinal')
    local its_member = string.sub(member, 1, -#turn_id - 1) .. unfinished[i]
    if turn.token then redis.call('PUBLISH', ARGV[12], its_member) end
    end_turn(own, turn, unfinished[i], its_member, 'canceled', 22 + 5 * i, now)
    if strategy == 'rollback' then redis.call('ZADD', index, tonumber(turn.ordinal) + 0.5, unfinished[i]) end
    notify(ARGV[11], its_member)
  end
end

local ordinal = redis.call('HINCRBY', keys.session, 'turns', 1)
redis.call('HSET', keys.session, 'latest_turn', turn_id, 'latest_digest', ARGV[7], 'latest_us', int(now))
redis.call('HSET', keys.turn, 'tenant', ARGV[4], 'session_id', ARGV[5], 'agent_id', ARGV[6], 'status', 'queued',
  'schema', ARGV[10], 'epoch', int(now), 'last', 1, 'plast', 1, 'attempts', 0, 'digest', ARGV[7],
  'created_us', int(now), 'written', int(now), 'ordinal', ordinal)
write_events(keys.events, now, 0, 19, 1)
write_private(KEYS[12], now, 0, 23, 1)
redis.call('ZADD', index, ordinal, turn_id)
redis.call('ZADD', KEYS[14], int(now), member)
redis.call('ZADD', keys.active, int(now), member)
local limits = {attempts = 0}
for i, name in ipairs({'start_by', 'end_by'}) do
  if ARGV[13 + i] ~= '' then
    limits[name] = int(now + tonumber(ARGV[13 + i]))
    redis.call('HSET', keys.turn, name, limits[name])
  end
end
if limits.start_by or limits.end_by then set_limit(keys.limits, member, limits) end
if ARGV[16] ~= '' then
  redis.call('HSET', keys.turn, 'counted', ARGV[16])
  redis.call('HINCRBY', keys.queued, 'total', 1)
  redis.call('HINCRBY', keys.queued, ARGV[16], 1)
end
if ARGV[17] ~= '' then redis.call('HSET', keys.turn, 'retry_of', ARGV[17]) end
local length = redis.call('RPUSH', keys.queue, turn_id)
if length == 1 then
  redis.call('ZADD', keys.due, int(now + HINT_DELAY_US), member)
  redis.call('ZREM', keys.due, string.sub(member, 1, -#turn_id - 1)) -- the session is not idle any more
end
if ARGV[8] == '1' then
  redis.call('HSET', scope, 'turn_id', turn_id, 'digest', ARGV[7])
  redis.call('EXPIRE', scope, IDEMPOTENCY_S)
  redis.call('HSET', keys.turn, 'idempotency', scope) -- it goes when its session goes
end
return {'ACCEPTED', turn_id, length == 1 and '1' or '0'}
