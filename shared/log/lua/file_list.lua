-- A page of a tenant's files, by their creation.
--
-- KEYS  as _lib.lua says of files, without the bytes
-- ARGV  1 now  2 the index, as a number in KEYS  3 'asc' or 'desc'  4 behind this time of creation (µs), or ''
--       5 at most so many
-- Returns  file ids, each with its row behind it, or nil: more has expired than was swept, ask again
if not sweep_files(now_us()) then return nil end
local index, after, ids = KEYS[tonumber(ARGV[2])], ARGV[4], nil
if ARGV[3] == 'asc' then
  local from = after == '' and '-inf' or '(' .. after
  ids = redis.call('ZRANGEBYSCORE', index, from, '+inf', 'LIMIT', 0, ARGV[5])
else
  local from = after == '' and '+inf' or '(' .. after
  ids = redis.call('ZREVRANGEBYSCORE', index, from, '-inf', 'LIMIT', 0, ARGV[5])
end
local found = {}
for i, id in ipairs(ids) do
  found[2 * i - 1], found[2 * i] = id, redis.call('HGET', KEYS[2], id)
end
return found
