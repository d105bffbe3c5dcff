-- Writes what cluster_link.lua shows to the file that CLUSTERLINK_FIELDS names: a line a field, in the order of the tree.
-- Packet, stream, sender's port, name, kind of value, value; tabs in between, texts and bytes in hex. Errors of Lua and
-- of Wireshark's own, too.

local output = assert(io.open(os.getenv("CLUSTERLINK_FIELDS"), "w"))
local stream, port = Field.new("tcp.stream"), Field.new("tcp.srcport")

local function shown(info)
  if info.type == ftypes.STRING then
    return "text", (info.value:gsub(".", function(each) return ("%02x"):format(each:byte()) end))
  elseif info.type == ftypes.BYTES then
    return "bytes", info.value:tohex(true)
  elseif info.type == ftypes.PROTOCOL or info.type == ftypes.NONE then
    return "none", ""
  end
  return "number", tostring(info.value)
end

local function is_wanted(name)
  return name:find("^clusterlink") or name:find("^_ws%.malformed") or name:find("^_ws%.lua") and name ~= "_ws.lua.fake"
end

local listener = Listener.new("frame", nil, true)
function listener.packet(pinfo)
  for _, info in ipairs({ all_field_infos() }) do
    if is_wanted(info.name) then
      local kind, value = shown(info)
      local line = { pinfo.number, tostring(stream()), tostring(port()), info.name, kind, value }
      output:write(table.concat(line, "\t"), "\n")
    end
  end
  output:flush()
end
