-- All that lies under a prefix, as one JSON object: key -> {type, content, whether it expires}. For tests.
--
-- ARGV  1 prefix
local READ = {
  hash = {'HGETALL'}, list = {'LRANGE', '0', '-1'}, set = {'SMEMBERS'}, string = {'GET'},
  zset = {'ZRANGE', '0', '-1', 'WITHSCORES'}, stream = {'XRANGE', '-', '+'},
}
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  local kind = redis.call('TYPE', key).ok
  local command = READ[kind]
  found[key] = {kind, redis.call(command[1], key, unpack(command, 2)), redis.call('PTTL', key) > 0}
end
return cjson.encode(found)
