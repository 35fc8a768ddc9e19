-- Shared by all scripts: the loader puts in front of each what it uses of this, part by part. Blank lines part them.
--
-- Conventions
--   ARGV[1] is always `now` in microseconds, or '' for the server's TIME (tests inject it).
--   An event is four arguments: type, schema version, field, value. Field 'p' holds the payload's JSON text,
--   'b' the name of a blob that holds it. A private record is three: kind, field, value.
--   A script checks everything before its first write: an error in its middle is not rolled back.
--   Turn hash: tenant session_id agent_id status schema epoch token deadline lease last plast attempts lapses
--   lapsed released cancel hints pending digest resumed:<digest> created_us start_by end_by counted
--   retry_of worker written snapshot snapshot_blob final final_blob idempotency confirmed
--   Scripts that may end a turn begin their keys with: 1 turn  2 events  3 session  4 session queue  5 due
--   6 leases  7 limits  8 ended (turns without a snapshot)  9 queued (counts)  10 index of active turns
--   11 index of failed turns

local TERMINAL = {completed = true, failed = true, canceled = true}

local NOTICE_BYTES = 8192 -- every API process gets them, whether anybody there follows the turn or not

local HINT_DELAY_US = 1000000 -- the publisher's own hint gets this long before the reaper repeats it

local function now_us()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local function int(value)
  return string.format('%d', value)
end

local function fields(key, ...)
  local names, values, row = {...}, redis.call('HMGET', key, ...), {}
  for i = 1, #names do row[names[i]] = values[i] end
  return row
end

-- A claim's number: rises also where a failover lost the previous one.
local function next_epoch(previous, now)
  return math.max((tonumber(previous) or 0) + 1, now)
end

-- When the owner's lease ends. After a promotion the clock may differ: a deadline further off than one lease counts
-- as one lease, from the moment that somebody sees it.
local function lease_end(turn, key, leases, member, now)
  local deadline, latest = tonumber(turn.deadline), now + tonumber(turn.lease)
  if deadline <= latest then return deadline end
  redis.call('HSET', key, 'deadline', int(latest))
  redis.call('ZADD', leases, int(latest), member)
  return latest
end

-- Appends one event; returns its line in a notice, false for one that lies in a blob.
local function write_event(key, id, event_type, version, field, value)
  redis.call('XADD', key, id, 't', event_type, 'v', version, field, value)
  return field == 'p' and id .. ' ' .. event_type .. ' ' .. version .. ' ' .. value
end

-- The id of the log's last event, as far as the turn's hash tells. After a claim that wrote nothing it is an id that no
-- log holds: then whoever follows the turn reads the log.
local function last_id(turn)
  return turn.last .. '-' .. turn.epoch
end

-- Appends `count` events that start at ARGV[first]; returns the last seq, and the news for `notify`: their lines, and
-- `after`, the id of the event before them.
local function write_events(key, epoch, seq, first, count, after)
  local news, suffix = {after = after}, '-' .. int(epoch)
  for i = 1, count do
    local at = first + 4 * (i - 1)
    seq = seq + 1
    news[i] = write_event(key, int(seq) .. suffix, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
  end
  return seq, news
end

-- Tells whoever follows a turn that its log grew. Small events go along, so that nobody has to read them: a line each
-- (JSON text has no line ends), behind one with the turn's member and the id of the event before them.
-- shared/log/notices.py takes it apart.
local function notify(channel, member, news)
  local size = 0
  for i = 1, news and #news or 0 do size = size + (news[i] and #news[i] or math.huge) end
  if size == 0 or size > NOTICE_BYTES then
    redis.call('PUBLISH', channel, member)
  else
    redis.call('PUBLISH', channel, member .. ' ' .. news.after .. '\n' .. table.concat(news, '\n'))
  end
end

-- Appends `count` private records that start at ARGV[first]; returns the last private seq.
local function write_private(key, epoch, seq, first, count)
  for i = 0, count - 1 do
    local at = first + 3 * i
    seq = seq + 1
    redis.call('XADD', key, int(seq) .. '-' .. int(epoch), 'k', ARGV[at], ARGV[at + 1], ARGV[at + 2])
  end
  return seq
end

-- Clears the private record of an ended turn. What running it again takes, the config (its first entry), stays as long as
-- its events do, unless it completed; nothing else may: there may be what shields have held back.
local function clear_private(key, status, keep_ms)
  local first = status ~= 'completed' and redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  redis.call('DEL', key)
  if first then
    redis.call('XADD', key, first[1], unpack(first[2]))
    redis.call('PEXPIRE', key, keep_ms)
  end
end

-- The keys that ending a turn takes, by name.
local function end_keys()
  return {turn = KEYS[1], events = KEYS[2], session = KEYS[3], queue = KEYS[4], due = KEYS[5], leases = KEYS[6],
    limits = KEYS[7], ended = KEYS[8], queued = KEYS[9], active = KEYS[10], failed = KEYS[11]}
end

-- Puts the next limit of a turn into the index: until somebody has taken it up the sooner of the two, then its deadline.
-- `turn` holds attempts, start_by and end_by.
local function set_limit(limits, member, turn)
  local at = tonumber(turn.end_by or nil)
  if tostring(turn.attempts) == '0' and turn.start_by then at = math.min(at or math.huge, tonumber(turn.start_by)) end
  if at then redis.call('ZADD', limits, int(at), member) else redis.call('ZREM', limits, member) end
end

-- Takes a turn out of the counts of those that nobody has taken up yet; `field` is its agent's, if it is counted.
local function uncount(key, queued, field)
  if not field then return end
  redis.call('HDEL', key, 'counted')
  for _, name in ipairs({'total', field}) do
    if redis.call('HINCRBY', queued, name, -1) <= 0 then redis.call('HDEL', queued, name) end
  end
end

-- Takes an ended turn out of its session's queue and makes the next one due. Returns the next turn's id or ''.
-- `member` is tenant/session/turn; the next turn shares its first two parts.
local function advance(queue, due, member, turn_id, now)
  local was_head = redis.call('LINDEX', queue, 0) == turn_id
  redis.call('LREM', queue, was_head and 1 or -1, turn_id) -- many at once are ended from the tail: looked for from there
  if not was_head then return '' end
  local next_id = redis.call('LINDEX', queue, 0)
  if not next_id then return '' end
  local next_member = string.sub(member, 1, -#turn_id - 1) .. next_id
  redis.call('ZADD', due, int(now + HINT_DELAY_US), next_member)
  return next_id
end

-- An idle session that is not to persist becomes due for its expiry; `idle_ttl_us` is '' for one that persists. A
-- deleted one is due already, and sooner.
local function rest(keys, member, turn_id, now)
  local session = fields(keys.session, 'idle_ttl_us', 'deleted')
  local ttl = session.idle_ttl_us
  if ttl and ttl ~= '' and not session.deleted and redis.call('LLEN', keys.queue) == 0 then
    redis.call('ZADD', keys.due, int(now + tonumber(ttl)), string.sub(member, 1, -#turn_id - 1))
  end
end

-- What every end does beside its event: the turn leaves the indexes, and the session's next one becomes due. Returns
-- the next turn's id or ''.
local function leave(keys, turn_id, member, status, counted, now)
  for _, index in ipairs({keys.due, keys.leases, keys.limits, keys.active}) do
    redis.call('ZREM', index, member)
  end
  if status == 'failed' then redis.call('ZADD', keys.failed, int(now), member) end
  uncount(keys.turn, keys.queued, counted)
  local next_id = advance(keys.queue, keys.due, member, turn_id, now)
  rest(keys, member, turn_id, now)
  return next_id
end

-- Ends a turn by a script and not by its owner, who is fenced from now on: the event at ARGV[at], under an epoch of its
-- own; a janitor makes the snapshot. `turn` holds epoch, last and counted. Returns the next turn's id or ''.
local function end_turn(keys, turn, turn_id, member, status, at, now)
  local epoch = next_epoch(turn.epoch, now)
  local last = write_events(keys.events, epoch, tonumber(turn.last), at, 1)
  redis.call('HSET', keys.turn, 'status', status, 'epoch', int(epoch), 'last', int(last), 'written', int(now))
  redis.call('HDEL', keys.turn, 'token', 'deadline', 'cancel', 'pending')
  redis.call('ZADD', keys.ended, int(now), member)
  return leave(keys, turn_id, member, status, turn.counted, now)
end

-- Keys of a tenant's files: 1 expiry (every file, also one that is being written, by when it is over)  2 rows  3 sizes
-- (and their 'total')  4 to 7 indexes by creation: of all files, then of each purpose  8 a file's bytes
local FILE_INDEXES = {4, 5, 6, 7}

-- A key lives at least as long as what it says.
local function outlive(key, ttl_us)
  local ms = math.ceil(ttl_us / 1000)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

-- Takes a file out of everything but its bytes.
local function drop_file(id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  redis.call('HINCRBY', KEYS[3], 'total', -(tonumber(redis.call('HGET', KEYS[3], id)) or 0))
  redis.call('HDEL', KEYS[3], id)
  for _, index in ipairs(FILE_INDEXES) do redis.call('ZREM', KEYS[index], id) end
end

-- Drops files that are over; their bytes expire by themselves. False where there are more than one script should do.
local function sweep_files(now)
  local over = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'LIMIT', 0, 1000)
  for _, id in ipairs(over) do drop_file(id) end
  return #over < 1000
end
