-- Writes a piece of a file that nobody sees yet. It stays for as long as the file may take to be written.
--
-- KEYS  1 rows  2 the file's bytes
-- ARGV  1 now (not used)  2 file id  3 number of the piece  4 the piece  5 µs for writing the file
-- Returns  1, or 0: the file is there already, and is not touched
if redis.call('HEXISTS', KEYS[1], ARGV[2]) == 1 then return 0 end
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
redis.call('PEXPIRE', KEYS[2], math.ceil(tonumber(ARGV[5]) / 1000))
return 1
