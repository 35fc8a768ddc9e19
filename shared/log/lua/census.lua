-- How many turns and insert jobs of a shard are held by a worker, wait for one, and have ended without a snapshot.
--
-- KEYS  1 due  2 leases  3 ended
-- ARGV  1 now  2 microseconds within which everything that waits for a worker is due
-- Returns  nil where there is nothing, else {{turns, jobs} held, {turns, jobs} waiting, {turns, jobs} ended,
--          microseconds that the first of what is due is late, negative where it is not}
if redis.call('EXISTS', unpack(KEYS)) == 0 then return nil end -- at rest, most shards are so
local now = int(now_us())

local function counted(members)
  local turns, jobs = 0, 0
  for _, member in ipairs(members) do
    if string.find(member, '/job_', 1, true) then
      jobs = jobs + 1
    elseif string.sub(member, -1) ~= '/' then -- a session that is about to be cleared
      turns = turns + 1
    end
  end
  return {turns, jobs}
end

local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {
  counted(redis.call('ZRANGE', KEYS[2], 0, -1)),
  counted(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now + ARGV[2]))),
  counted(redis.call('ZRANGE', KEYS[3], 0, -1)),
  first[2] and now - tonumber(first[2]) or -1,
}
