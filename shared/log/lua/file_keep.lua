-- Makes a file whose pieces are all written visible, until it expires.
--
-- KEYS  as _lib.lua says of files
-- ARGV  1 now  2 file id  3 number of its pieces  4 what is told of it (JSON)  5 µs that it is kept
--       6 the index of its purpose, as a number in KEYS
-- Returns  its row, or nil: it took too long, and is not counted or whole any more
-- A row is '<created µs> <expires µs> <JSON>'. Times of creation rise within a tenant: they are a list's cursor.
local now, ttl = now_us(), tonumber(ARGV[5])
local row = redis.call('HGET', KEYS[2], ARGV[2])
if row then return row end
local is_counted = redis.call('HEXISTS', KEYS[3], ARGV[2]) == 1
if not is_counted or redis.call('HLEN', KEYS[8]) ~= tonumber(ARGV[3]) then return nil end
local newest = redis.call('ZREVRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2]
local created = math.max(now, tonumber(newest or 0) + 1)
row = int(created) .. ' ' .. int(now + ttl) .. ' ' .. ARGV[4]
redis.call('HSET', KEYS[2], ARGV[2], row)
redis.call('ZADD', KEYS[1], int(now + ttl), ARGV[2])
redis.call('ZADD', KEYS[4], int(created), ARGV[2])
redis.call('ZADD', KEYS[tonumber(ARGV[6])], int(created), ARGV[2])
redis.call('PEXPIRE', KEYS[8], math.ceil(ttl / 1000))
for i = 1, 7 do outlive(KEYS[i], ttl) end
return row
