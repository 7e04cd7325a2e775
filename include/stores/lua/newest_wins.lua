-- Keep the newer of two packed lists: KEYS[1] is the list's key, ARGV[1] the packed list, ARGV[2] its TTL in ms.
-- Returns 1 if ARGV[1] was written, 0 if the stored list is newer. An equal version is written again.
--
-- The first eight bytes are the version, big endian. They are compared as two numbers of 32 bits: a Lua number
-- holds 53 bits exactly, and Lua's comparison of strings follows the server's locale.
local stored = redis.call('GETRANGE', KEYS[1], 0, 7)
if #stored == 8 then
    local stored_high, stored_low = struct.unpack('>I4I4', stored)
    local new_high, new_low = struct.unpack('>I4I4', ARGV[1])
    if stored_high > new_high or (stored_high == new_high and stored_low > new_low) then
        return 0
    end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
