-- The cluster link protocol (protocol.md) as a dissector for Wireshark 4.0 and later.
--
-- Copy this file to Wireshark's folder for personal Lua plugins (Help > About > Folders), or name it to one run:
--     tshark -X lua_script:cluster_link.lua -r capture.pcapng -V
--
-- It dissects the ports of the preference `ports`, and any other TCP connection that looks like this protocol. To turn
-- the guessing off, use Analyze > Enabled Protocols or --disable-heuristic clusterlink_tcp. A fault is shown with its
-- code from protocol.md and, within a frame, its offset: clusterlink.error, clusterlink.error.offset,
-- clusterlink.error.path. The dissector does not check how a stream ends, limits that a receiver has set, or the rules
-- of the handshake and the session.
--
-- The revision is not on the wire. If the preference `revision` does not give it, the first frame after the handshake
-- does: an empty or a JSON message means revision 1, since less than one box in a million looks like one; anything else
-- means revision 2. If a side's handshake is not in the capture, each frame is judged by itself, perhaps wrongly.
--
-- To open boxes, set the preference `key_log` to a file of lines CLUSTER_SESSION_KEY NONCE KEY. This needs a Wireshark
-- with GcryptCipher (4.6 or later).

local clusterlink = Proto("clusterlink", "Cluster Link")

-- `make spec` generates the tables between the next line and "/made" from wireproto.schema.
-- made
local MAX_LINK_LENGTH = 268435456
local MAX_NESTING = 512
local MESSAGES = {
  [0x01] = { name = "handshakeHello", kind = "json", revision = 1, limit = 4096, fields = {
    { key = "sePubKeyRaw", name = "handshake.se_pub_key_raw", type = "bytes", min = 64, max = 64 },
    { key = "ephemeralX25519PubKey", name = "handshake.ephemeral_x25519_pub_key", type = "bytes", min = 32, max = 32 },
    { key = "nonce", name = "handshake.nonce", type = "bytes", min = 32, max = 32 },
    { key = "seSignature", name = "handshake.se_signature", type = "bytes" },
  } },
  [0x02] = { name = "handshakeAck", kind = "json", revision = 1, limit = 4096, fields = {
    { key = "sePubKeyRaw", name = "handshake.se_pub_key_raw", type = "bytes", min = 64, max = 64 },
    { key = "ephemeralX25519PubKey", name = "handshake.ephemeral_x25519_pub_key", type = "bytes", min = 32, max = 32 },
    { key = "nonce", name = "handshake.nonce", type = "bytes", min = 32, max = 32 },
    { key = "seSignature", name = "handshake.se_signature", type = "bytes" },
  } },
  [0x03] = { name = "ping", kind = "empty", revision = 1, fields = {} },
  [0x04] = { name = "pong", kind = "json", revision = 1, limit = 65536, fields = {
    { key = "modelLoaded", name = "pong.model_loaded", type = "boolean" },
    { key = "inferenceInFlight", name = "pong.inference_in_flight", type = "boolean" },
    { key = "memoryPressure", name = "pong.memory_pressure", type = "string", values = { "normal", "warning", "critical" } },
    { key = "extensions", name = "pong.extensions", type = "array", item = { type = "string", max = 64, pattern = [[^[a-z][a-z0-9-]*/[1-9][0-9]{0,3}\z]] }, max = 32, optional = true },
  } },
  [0x05] = { name = "inferenceStep", kind = "opaque", revision = 1, fields = {
    { key = "box", name = "inference.box", type = "bytes" },
  } },
  [0x06] = { name = "inferenceToken", kind = "opaque", revision = 1, fields = {
    { key = "box", name = "inference.box", type = "bytes" },
  } },
  [0x07] = { name = "jacclBootstrap", kind = "json", revision = 1, limit = 65536, fields = {
    { key = "port", name = "jaccl.port", type = "uint32", low = "0", high = "65535" },
    { key = "sessionID", name = "jaccl.session_id", type = "string" },
    { key = "extensions", name = "jaccl.extensions", type = "array", item = { type = "string", max = 64, pattern = [[^[a-z][a-z0-9-]*/[1-9][0-9]{0,3}\z]] }, max = 32, optional = true },
  } },
  [0x08] = { name = "promptTokens", kind = "json", revision = 2, fields = {
    { key = "uid", name = "prompt.uid", type = "string" },
    { key = "tokens", name = "prompt.tokens", type = "array", item = { type = "int64", low = "-9223372036854775808", high = "9223372036854775807" } },
    { key = "maxTokens", name = "prompt.max_tokens", type = "int64", low = "-9223372036854775808", high = "9223372036854775807" },
  } },
  [0x09] = { name = "stepToken", kind = "json", revision = 2, limit = 65536, fields = {
    { key = "uid", name = "step.uid", type = "string" },
    { key = "token", name = "step.token", type = "int64", low = "-9223372036854775808", high = "9223372036854775807" },
  } },
  [0x0a] = { name = "sessionStop", kind = "json", revision = 2, limit = 65536, fields = {
    { key = "uid", name = "session.uid", type = "string" },
  } },
  [0x0b] = { name = "ppActivation", kind = "json", revision = 2, fields = {
    { key = "uid", name = "pp.uid", type = "string" },
    { key = "seqLen", name = "pp.seq_len", type = "int64", low = "-9223372036854775808", high = "9223372036854775807" },
    { key = "sealedActivation", name = "pp.sealed_activation", type = "bytes" },
  } },
  [0x0c] = { name = "ppToken", kind = "json", revision = 2, limit = 65536, fields = {
    { key = "uid", name = "pp.uid", type = "string" },
    { key = "sealedToken", name = "pp.sealed_token", type = "bytes" },
  } },
  [0x0d] = { name = "ppSessionEnd", kind = "json", revision = 2, limit = 65536, fields = {
    { key = "uid", name = "pp.uid", type = "string" },
  } },
  [0x40] = { name = "sideChannelPart", kind = "numbered", revision = 2, extension = "side-channel/1", fields = {
    { key = "sequence", name = "side.sequence", type = "uint32", low = "0", high = "4294967295" },
    { key = "part", name = "side.part", type = "bytes", max = 1048576 },
  } },
  [0x41] = { name = "sideChannelWhole", kind = "numbered", revision = 2, extension = "side-channel/1", fields = {
    { key = "sequence", name = "side.sequence", type = "uint32", low = "0", high = "4294967295" },
    { key = "whole", name = "side.whole", type = "bytes", max = 8388608 },
  } },
  [0x42] = { name = "outcome", kind = "json", revision = 2, limit = 65536, extension = "outcome/1", fields = {
    { key = "rank", name = "outcome.rank", type = "uint32", low = "0", high = "65535" },
    { key = "state", name = "outcome.state", type = "string", values = { "started", "ready", "failed", "finished" } },
    { key = "stage", name = "outcome.stage", type = "string", max = 1024 },
    { key = "code", name = "outcome.code", type = "string", max = 1024 },
    { key = "message", name = "outcome.message", type = "string", max = 1024 },
  } },
  [0x43] = { name = "versions", kind = "json", revision = 2, limit = 65536, extension = "outcome/1", fields = {
    { key = "package", name = "versions.package", type = "string", max = 1024 },
    { key = "mlx", name = "versions.mlx", type = "string", max = 1024 },
    { key = "backend", name = "versions.backend", type = "string", max = 1024 },
    { key = "devices", name = "versions.devices", type = "string", pattern = [[^([0-9a-f]{64})?\z]] },
    { key = "program", name = "versions.program", type = "string", values = { "hold", "module", "command", "dry-run" }, optional = true },
  } },
  [0xff] = { name = "sessionEnd", kind = "empty", revision = 1, fields = {} },
}
local MEANINGS = {
  ["truncated"] = "the data ends too early",
  ["trailing-data"] = "bytes follow the end of what was decoded",
  ["link-length-zero"] = "a link frame announces a length of 0",
  ["link-length-limit"] = "the length of a link frame is over the limit",
  ["type-unknown"] = "neither the revision nor an agreed extension defines the type",
  ["payload-limit"] = "a cluster frame is over the limit of its type",
  ["payload-not-empty"] = "a type without a payload has one",
  ["json-bom"] = "the JSON text starts with a byte-order mark",
  ["json-utf8"] = "a string is not UTF-8",
  ["json-control-character"] = "a string contains an unescaped control character",
  ["json-escape"] = "a string contains an escape that JSON does not define",
  ["json-surrogate"] = "a string contains half a surrogate pair",
  ["json-syntax"] = "a byte breaks the JSON grammar",
  ["json-duplicate-key"] = "a key is repeated in one object",
  ["json-nesting"] = "arrays and objects are nested deeper than the limit",
  ["payload-not-object"] = "the JSON payload is not an object",
  ["field-missing"] = "a required field is missing",
  ["field-type"] = "a field has a value of the wrong JSON type",
  ["field-not-integer"] = "a number is written with a fraction or an exponent",
  ["field-range"] = "a number is outside its range",
  ["field-length"] = "a field has too many or too few bytes, characters or elements",
  ["field-base64"] = "a byte field is not standard, padded base64",
  ["field-enum"] = "a string is not one of the field's values",
  ["field-pattern"] = "a string does not have the form that the field requires",
  ["field-duplicate"] = "a string is repeated in an array that allows each only once",
  ["activation-seq-len"] = "an activation's seqLen is negative but not -1, the stop sentinel",
  ["seal-tag"] = "a box does not open with the session's key",
}
-- /made

-- The plaintexts of the tensor boxes in these messages.
local TENSORS = { [0x05] = "activation", [0x06] = "token", [0x0b] = "activation", [0x0c] = "token" }
local HELLO, BOOTSTRAP = 0x01, 0x07
local LENGTH, NONCE, TAG = 8, 12, 16
local OVERHEAD = NONCE + TAG

-- Fields --------------------------------------------------------------------------------------------------------------

local fields = {
  length = ProtoField.uint64("clusterlink.length", "Length"),
  box = ProtoField.bytes("clusterlink.box", "Sealed box"),
  nonce = ProtoField.bytes("clusterlink.box.nonce", "Nonce"),
  ciphertext = ProtoField.bytes("clusterlink.box.ciphertext", "Ciphertext"),
  tag = ProtoField.bytes("clusterlink.box.tag", "Tag"),
  frame = ProtoField.bytes("clusterlink.frame", "Cluster frame"),
  seq_len = ProtoField.int32("clusterlink.tensor.seq_len", "seqLen"),
  data = ProtoField.bytes("clusterlink.tensor.data", "bfloat16"),
  token_id = ProtoField.int32("clusterlink.tensor.token_id", "tokenID"),
  code = ProtoField.string("clusterlink.error", "Error"),
  offset = ProtoField.uint32("clusterlink.error.offset", "Offset"),
  path = ProtoField.string("clusterlink.error.path", "Field"),
}

do
  local makers = {
    uint32 = ProtoField.uint32, int64 = ProtoField.int64, boolean = ProtoField.bool,
    string = ProtoField.string, bytes = ProtoField.bytes,
  }
  local names = {}
  for number, message in pairs(MESSAGES) do
    names[number] = message.name
    for _, field in ipairs(message.fields) do
      local make = makers[(field.item or field).type]
      fields[field.name] = fields[field.name] or make("clusterlink." .. field.name, field.key)
    end
  end
  fields.type = ProtoField.uint8("clusterlink.type", "Type", base.HEX, names)
  local list = {}
  for _, field in pairs(fields) do list[#list + 1] = field end
  clusterlink.fields = list
end

local malformed = ProtoExpert.new(
  "clusterlink.malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
local unopened = ProtoExpert.new(
  "clusterlink.unopened", "Not opened", expert.group.UNDECODED, expert.severity.NOTE)
local unread = ProtoExpert.new(
  "clusterlink.unread", "Not dissected", expert.group.UNDECODED, expert.severity.NOTE)
clusterlink.experts = { malformed, unopened, unread }

local tcp_stream = Field.new("tcp.stream")

clusterlink.prefs.ports = Pref.range("TCP ports", "7777", "Ports on which rank 1 listens", 65535)
clusterlink.prefs.revision = Pref.enum(
  "Revision", 0, "The revision that the peers were told to speak",
  { { "auto", "by the first frame", 0 }, { "1", "revision 1", 1 }, { "2", "revision 2", 2 } }, false)
clusterlink.prefs.key_log = Pref.string("Key log", "", "A file of lines CLUSTER_SESSION_KEY NONCE KEY")

-- Returns bytes of a range, up to its end if no size is given; an empty range at its very end.
local function part(range, at, size)
  if at < range:len() then return range(at, size or range:len() - at) end
  return range:len() > 0 and range(0, 0) or range
end

-- A fault has a code, and may have `at`, an offset in the decoded bytes, and the path of a field.
local function blame(tree, range, fault)
  local place = part(range, fault.at or 0)
  local item = tree:add(fields.code, place, fault.code)
  if fault.path then item:add(fields.path, place, fault.path) end
  if fault.at then item:add(fields.offset, place, fault.at) end
  item:add_proto_expert_info(malformed, fault.code .. ": " .. MEANINGS[fault.code])
end

-- JSON, read strictly [JSON-*] ----------------------------------------------------------------------------------------

local KINDS = { ['"'] = "string", ["{"] = "object", ["["] = "array", t = "boolean", f = "boolean", n = "null" }
for character in ("-0123456789"):gmatch(".") do KINDS[character] = "number" end
local WORDS = { t = "true", f = "false", n = "null" }
local ESCAPES = {
  ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}

-- A cursor over a cluster frame's bytes. A method stops at the first byte that cannot be right, and throws the fault.
local Reader = {}
Reader.__index = Reader

function Reader.new(text, position)
  return setmetatable({ text = text, position = position, values = {} }, Reader)
end

function Reader:fail(code, position, path)
  error({ code = code, at = position - 1, path = path }, 0)
end

function Reader:truncated()
  self:fail("truncated", #self.text + 1)
end

function Reader:syntax(position)
  if position > #self.text then self:truncated() end
  self:fail("json-syntax", position)
end

-- Returns the next character that is not white space, without consuming it.
function Reader:next()
  self.position = self.text:find("[^ \t\n\r]", self.position) or self:truncated()
  return self.text:sub(self.position, self.position)
end

function Reader:kind()
  return KINDS[self:next()] or self:syntax(self.position)
end

function Reader:literal()
  local word = WORDS[self:next()]
  for index = 1, #word do
    if self.text:byte(self.position) ~= word:byte(index) then self:syntax(self.position) end
    self.position = self.position + 1
  end
  return word == "true"
end

-- Returns the integer part, and whether it is the complete number.
function Reader:number()
  local text, position = self.text, self.position
  local function digits(from)
    local _, last = text:find("^[0-9]+", from)
    return last and last + 1 or self:syntax(from)
  end
  if text:sub(position, position) == "-" then position = position + 1 end
  position = text:sub(position, position) == "0" and position + 1 or digits(position)
  local whole = text:sub(self.position, position - 1)
  local behind = position
  if text:find("^%.", position) then position = digits(position + 1) end
  if text:find("^[eE]", position) then position = digits(text:match("^[+-]?()", position + 1)) end
  if position > #text then self:truncated() end
  self.position = position
  return whole, position == behind
end

-- Returns the length in bytes of a character that is not ASCII: nil if it is not UTF-8, 0 if the text ends inside it.
local function utf8_size(text, position)
  local lead, low, high, size = text:byte(position), 0x80, 0xbf, nil
  if lead >= 0xc2 and lead <= 0xdf then
    size = 2
  elseif lead >= 0xe0 and lead <= 0xef then
    size, low, high = 3, lead == 0xe0 and 0xa0 or low, lead == 0xed and 0x9f or high
  elseif lead >= 0xf0 and lead <= 0xf4 then
    size, low, high = 4, lead == 0xf0 and 0x90 or low, lead == 0xf4 and 0x8f or high
  end
  for index = position + 1, position + (size or 1) - 1 do
    local byte = text:byte(index)
    if not byte then return 0 end
    if byte < low or byte > high then return nil end
    low, high = 0x80, 0xbf
  end
  return size
end

local function utf8_character(code)
  local function six_bits(place) return 0x80 + math.floor(code / place) % 64 end
  if code < 0x80 then return string.char(code) end
  if code < 0x800 then return string.char(0xc0 + math.floor(code / 64), six_bits(1)) end
  if code < 0x10000 then return string.char(0xe0 + math.floor(code / 4096), six_bits(64), six_bits(1)) end
  return string.char(0xf0 + math.floor(code / 262144), six_bits(4096), six_bits(64), six_bits(1))
end

function Reader:string()
  local text, parts, position = self.text, {}, self.position + 1
  while true do
    local stop = text:find('[\0-\31"\\\128-\255]', position) or self:truncated()
    parts[#parts + 1] = text:sub(position, stop - 1)
    local byte = text:byte(stop)
    if byte == 0x22 then
      self.position = stop + 1
      return table.concat(parts)
    elseif byte == 0x5c then
      parts[#parts + 1], position = self:escape(stop)
    elseif byte < 0x20 then
      self:fail("json-control-character", stop)
    else
      local size = utf8_size(text, stop) or self:fail("json-utf8", stop)
      if size == 0 then self:truncated() end
      position = stop + size
      parts[#parts + 1] = text:sub(stop, position - 1)
    end
  end
end

-- Returns the character that an escape stands for, and the position after the escape.
function Reader:escape(position)
  local text = self.text
  local letter = text:sub(position + 1, position + 1)
  if letter == "" then self:truncated() end
  if letter ~= "u" then return ESCAPES[letter] or self:fail("json-escape", position), position + 2 end
  local high, behind = self:hex4(position + 2)
  if high < 0xd800 or high > 0xdfff then return utf8_character(high), behind end
  if high < 0xdc00 then
    local rest = text:sub(behind, behind + 1)
    if rest == "\\u" then
      local low, last = self:hex4(behind + 2)
      if low >= 0xdc00 and low <= 0xdfff then
        return utf8_character(0x10000 + (high - 0xd800) * 0x400 + low - 0xdc00), last
      end
    elseif rest == "" or rest == "\\" and behind == #text then
      self:truncated()
    end
  end
  self:fail("json-surrogate", position)
end

function Reader:hex4(position)
  local digits = self.text:sub(position, position + 3):match("^%x*")
  local behind = position + #digits
  if #digits < 4 then
    if behind > #self.text then self:truncated() end
    self:fail("json-escape", behind)
  end
  return tonumber(digits, 16), behind
end

-- Consumes what follows a value: the closing character (true) or a comma (false).
function Reader:closes(closing)
  local character = self:next()
  if character ~= closing and character ~= "," then self:syntax(self.position) end
  self.position = self.position + 1
  return character == closing
end

-- Reads an object, calling member(key) after each colon; returns the position of the closing brace.
function Reader:members(member)
  local seen = {}
  self.position = self.position + 1
  if self:next() == "}" then
    self.position = self.position + 1
    return self.position - 1
  end
  repeat
    if self:next() ~= '"' then self:syntax(self.position) end
    local opening = self.position
    local key = self:string()
    if seen[key] then self:fail("json-duplicate-key", opening) end
    seen[key] = true
    if self:next() ~= ":" then self:syntax(self.position) end
    self.position = self.position + 1
    member(key)
  until self:closes("}")
  return self.position - 1
end

-- Reads an array, calling element(index) at each value.
function Reader:elements(element)
  self.position = self.position + 1
  if self:next() == "]" then
    self.position = self.position + 1
    return
  end
  local index = 0
  repeat
    element(index)
    index = index + 1
  until self:closes("]")
end

-- Skips the value of an unknown key, validating it fully.
function Reader:skip(level)
  local kind = self:kind()
  if kind == "object" or kind == "array" then
    if level > MAX_NESTING then self:fail("json-nesting", self.position) end
    local walk = kind == "object" and self.members or self.elements
    walk(self, function() self:skip(level + 1) end)
  elseif kind == "string" then
    self:string()
  elseif kind == "number" then
    self:number()
  else
    self:literal()
  end
end

-- Payloads [PAYLOAD-*] ------------------------------------------------------------------------------------------------

-- Compares two integers in decimal: a double does not hold 64 bits.
local function is_less(one, other)
  local sign_1, digits_1 = one:match("^(-?)(.*)")
  local sign_2, digits_2 = other:match("^(-?)(.*)")
  if sign_1 ~= sign_2 then return sign_1 == "-" end
  if sign_1 == "-" then digits_1, digits_2 = digits_2, digits_1 end
  return #digits_1 < #digits_2 or #digits_1 == #digits_2 and digits_1 < digits_2
end

local function to_int64(whole)
  local value, sign = Int64(0), whole:sub(1, 1) == "-" and -1 or 1
  for digit in whole:gmatch("%d") do value = value * 10 + sign * tonumber(digit) end
  return value
end

-- Decodes standard base64; returns nil if the padding is missing or has bits that are not zero.
local function from_base64(text)
  if #text % 4 ~= 0 then return nil end
  local alphabet = "^[A-Za-z0-9+/]*"
  if not (text:find(alphabet .. "$") or text:find(alphabet .. "[AEIMQUYcgkosw048]=$")
      or text:find(alphabet .. "[AQgw]==$")) then
    return nil
  end
  return text == "" and ByteArray.new() or ByteArray.new(text, true):base64_decode()
end

local function contains(list, value)
  for _, each in ipairs(list) do
    if each == value then return true end
  end
  return false
end

-- Returns the code of a value that is too short, too long, or does not match its pattern.
local function form_fault(rule, value)
  local size = value:len()
  if rule.type == "string" then size = select(2, value:gsub("[^\128-\191]", "")) end
  if size < (rule.min or 0) or size > (rule.max or size) then return "field-length" end
  if rule.pattern and not rex_pcre2.find(value, rule.pattern) then return "field-pattern" end
end

function Reader:expect(wanted, path)
  if self:kind() ~= wanted then self:fail("field-type", self.position, path) end
end

-- Reads the value of a field or array element at the cursor, by its rule in MESSAGES.
function Reader:value(rule, path)
  local opening = self.position
  if rule.low then
    self:expect("number", path)
    local whole, is_whole = self:number()
    if whole == "-0" then whole = "0" end
    if not is_whole then self:fail("field-not-integer", opening, path) end
    if is_less(whole, rule.low) or is_less(rule.high, whole) then self:fail("field-range", opening, path) end
    return rule.type == "int64" and to_int64(whole) or tonumber(whole)
  elseif rule.type == "boolean" then
    self:expect("boolean", path)
    return self:literal()
  end
  self:expect("string", path)
  local value = self:string()
  if rule.values and not contains(rule.values, value) then self:fail("field-enum", opening, path) end
  if rule.type == "bytes" then value = from_base64(value) or self:fail("field-base64", opening, path) end
  local code = form_fault(rule, value)
  if code then self:fail(code, opening, path) end
  return value
end

-- Reads a field, and stores its value in self.values.
function Reader:field(field)
  local function keep(rule, path)
    self:next()
    local from = self.position
    local value = self:value(rule, path)
    local size = self.position - from
    self.values[#self.values + 1] = { field = field, rule = rule, value = value, at = from - 1, size = size }
    return value, from
  end
  if field.type ~= "array" then
    keep(field, field.key)
    return
  end
  self:expect("array", field.key)
  local opening, texts = self.position, {}
  self:elements(function(index)
    if index == field.max then self:fail("field-length", opening, field.key) end
    local path = ("%s[%d]"):format(field.key, index)
    local value, from = keep(field.item, path)
    if field.item.type == "string" then
      if texts[value] then self:fail("field-duplicate", from, path) end
      texts[value] = true
    end
  end)
end

function Reader:payload(message)
  if self.text:find("^\239\187\191", self.position) then self:fail("json-bom", self.position) end
  if self:kind() ~= "object" then self:fail("payload-not-object", self.position) end
  local by_key, there = {}, {}
  for _, field in ipairs(message.fields) do by_key[field.key] = field end
  local closing = self:members(function(key)
    if by_key[key] then
      self:field(by_key[key])
      there[key] = true
    else
      self:skip(2)
    end
  end)
  for _, field in ipairs(message.fields) do
    if not field.optional and not there[field.key] then self:fail("field-missing", closing, field.key) end
  end
  local behind = self.text:find("[^ \t\n\r]", self.position)
  if behind then self:fail("trailing-data", behind) end
end

-- Conversations -------------------------------------------------------------------------------------------------------

-- By TCP stream. `handshake` and `ended` map a sender to a packet number: of its hello or ack, and of a length that
-- ends the connection. `agreed` maps the packet number of a jacclBootstrap to the extensions that it names. There is no
-- running state, because Wireshark dissects packets again in any order.
local conversations = {}

function clusterlink.init()
  conversations = {}
end

local function conversation_of(pinfo)
  local stream = tcp_stream().value
  conversations[stream] = conversations[stream] or { handshake = {}, ended = {}, agreed = {} }
  return conversations[stream]
end

local function sender(pinfo)
  return ("%s:%d"):format(pinfo.src, pinfo.src_port)
end

-- Tells whether bytes look like a hello or an ack.
local function is_introduction(body)
  local start = body:raw(0, math.min(2, body:len()))
  return start:find("^[\1\2][ \t\n\r{]") ~= nil
end

-- Tells whether bytes look like a message of a kind that differs from a box.
local function is_evident(body)
  local message, size = MESSAGES[body(0, 1):uint()], body:len()
  if not message then return false end
  if message.kind == "empty" then return size == 1 end
  return message.kind == "json" and size > 2 and body:raw(1, 1) == "{" and body:raw(size - 1, 1) == "}"
end

-- Tells whether a body is a box, and the revision of its cluster frame. [HANDSHAKE-FIRST, SEAL-FRAMES]
local function judge(conversation, pinfo, body)
  local set, who = clusterlink.prefs.revision, sender(pinfo)
  local introduced = conversation.handshake[who]
  if is_introduction(body) and (not introduced or pinfo.number <= introduced) then
    conversation.handshake[who] = pinfo.number
    return false, set == 0 and 2 or set
  end
  if set == 1 then return false, 1 end
  local looks_boxed = not is_evident(body)
  if not introduced then return looks_boxed and body:len() >= OVERHEAD, 2 end
  if set == 2 then return true, 2 end
  conversation.revision = conversation.revision or (looks_boxed and 2 or 1)
  return conversation.revision == 2, conversation.revision
end

-- Tells whether a type belongs to the revision or to an agreed extension. [FRAME-TYPE, EXT-UNINVITED]
local function is_known(message, revision, conversation, pinfo)
  if not message or message.revision > revision then return false end
  if not message.extension then return true end
  local latest = 0
  for number in pairs(conversation.agreed) do
    if number <= pinfo.number then latest = math.max(latest, number) end
  end
  return contains(conversation.agreed[latest] or {}, message.extension)
end

-- Boxes [SEAL-LAYOUT, KEY-LOG] ----------------------------------------------------------------------------------------

local function logged_key(nonce)
  local file = nonce and io.open(clusterlink.prefs.key_log)
  if not file then return nil end
  local found
  for line in file:lines() do
    local line_nonce, key = line:match("^CLUSTER_SESSION_KEY (%x+) (%x+)%s*$")
    if key and #key == 64 and line_nonce:lower() == nonce then found = ByteArray.new(key) end
  end
  file:close()
  return found
end

local function session_key(conversation)
  conversation.key = conversation.key or logged_key(conversation.nonce)
  return conversation.key
end

-- Returns the plaintext of a box as a ByteArray; nil if the tag is wrong.
local function decrypted(box, key)
  local cipher = GcryptCipher.open(GCRY_CIPHER_AES256, GCRY_CIPHER_MODE_GCM, 0)
  local size = box:len() - OVERHEAD
  cipher:setkey(key)
  cipher:setiv(box(0, NONCE):bytes())
  local plaintext = size == 0 and ByteArray.new() or cipher:decrypt(nil, box(NONCE, size):bytes())
  return cipher:checktag(box(NONCE + size, TAG):bytes()) == 0 and plaintext or nil
end

-- Shows the parts of a box below `item`; returns its plaintext as a ByteArray, if it opens.
local function dissect_box(box, item, conversation)
  if box:len() < OVERHEAD then return blame(item, box, { code = "truncated", at = box:len() }) end
  local size = box:len() - OVERHEAD
  item:add(fields.nonce, box(0, NONCE))
  item:add(fields.ciphertext, part(box, NONCE, size))
  item:add(fields.tag, box(NONCE + size, TAG))
  if clusterlink.prefs.key_log == "" then
    item:add_proto_expert_info(unopened, "Sealed: the preference key_log can name a file with the session's key")
  elseif not GcryptCipher then
    item:add_proto_expert_info(
      unopened, "Sealed: this Wireshark has no GcryptCipher (4.6 has); use wireproto inspect --decrypt")
  elseif not session_key(conversation) then
    item:add_proto_expert_info(unopened, "Sealed: the key log has no key for the nonce of this session's hello")
  else
    local plaintext = decrypted(box, session_key(conversation))
    return plaintext or blame(item, box, { code = "seal-tag", at = 0 })
  end
end

-- [TENSOR-ACTIVATION, TENSOR-STOP, TENSOR-TOKEN]. hiddenDim is not on the wire, so the bytes after a positive seqLen
-- are not checked.
local function dissect_tensor(range, item, holds)
  if range:len() < 4 then return blame(item, range, { code = "truncated", at = range:len() }) end
  local number = range(0, 4):le_int()
  item:add_le(holds == "token" and fields.token_id or fields.seq_len, range(0, 4))
  if holds == "activation" and number < -1 then
    blame(item, range, { code = "activation-seq-len", at = 0, path = "seqLen" })
  elseif holds == "activation" and number > 0 then
    item:add(fields.data, part(range, 4))
  elseif range:len() > 4 then
    blame(item, range, { code = "trailing-data", at = 4 })
  end
end

local function dissect_tensor_box(box, item, holds, conversation)
  if box:len() < OVERHEAD then return end -- opaque to the frame [PAYLOAD-OPAQUE]
  local plaintext = dissect_box(box, item, conversation)
  if plaintext and plaintext:len() > 0 then dissect_tensor(plaintext:tvb("Opened tensor box")(), item, holds) end
end

-- Frames --------------------------------------------------------------------------------------------------------------

local function add_value(tree, range, read)
  local field, place, value = fields[read.field.name], range(read.at, read.size), read.value
  if read.rule.type == "bytes" then
    local bytes = value:len() > 0 and value:tvb(read.field.key)() or range(read.at, 0)
    return tree:add(field, bytes), bytes
  elseif read.rule.type == "string" then
    value = value:gsub("%z", "\\u0000") -- Wireshark ends the text of a field at a NUL
  end
  return tree:add(field, place, value), nil
end

local function dissect_json(range, pinfo, tree, message, conversation)
  local msg_type = range(0, 1):uint()
  local reader = Reader.new(range:raw(), 2)
  local good, fault = pcall(reader.payload, reader, message)
  if not good and type(fault) ~= "table" then error(fault, 0) end
  local names = {}
  for _, read in ipairs(reader.values) do
    local item, bytes = add_value(tree, range, read)
    if bytes and TENSORS[msg_type] then dissect_tensor_box(bytes, item, TENSORS[msg_type], conversation) end
    if msg_type == HELLO and read.field.key == "nonce" then conversation.nonce = read.value:tohex(true) end
    if read.field.key == "extensions" then names[#names + 1] = read.value end
  end
  if good and msg_type == BOOTSTRAP then conversation.agreed[pinfo.number] = names end
  -- Text that is not JSON can crash Wireshark's JSON dissector, and Wireshark with it.
  if good then Dissector.get("json"):call(range(1):tvb(), pinfo, tree) end
  return fault
end

-- `u32 little-endian ‖ bytes`
local function dissect_numbered(range, tree, message)
  if range:len() < 5 then return { code = "truncated", at = range:len() } end
  local number, rest = message.fields[1], message.fields[2]
  tree:add_le(fields[number.name], range(1, 4))
  if range:len() - 5 > rest.max then return { code = "field-length", at = 5, path = rest.key } end
  tree:add(fields[rest.name], part(range, 5))
end

local function dissect_frame(range, pinfo, tree, revision, conversation)
  local item = tree:add(fields.frame, range)
  if range:len() == 0 then return blame(item, range, { code = "truncated", at = 0 }) end
  local msg_type = range(0, 1):uint()
  local message, fault = MESSAGES[msg_type], nil
  item:add(fields.type, range(0, 1))
  if not is_known(message, revision, conversation, pinfo) then
    fault = { code = "type-unknown", at = 0, path = "type" }
  elseif message.limit and range:len() > message.limit then
    fault = { code = "payload-limit", at = 1 }
  elseif message.kind == "json" then
    fault = dissect_json(range, pinfo, item, message, conversation)
  elseif message.kind == "numbered" then
    fault = dissect_numbered(range, item, message)
  elseif message.kind == "opaque" then
    local box = part(range, 1)
    dissect_tensor_box(box, item:add(fields[message.fields[1].name], box), TENSORS[msg_type], conversation)
  elseif range:len() > 1 then
    fault = { code = "payload-not-empty", at = 1 }
  end
  if fault then blame(item, range, fault) end
  local name = message and message.name or ("0x%02x"):format(msg_type)
  item:set_text("Cluster frame: " .. name)
  return name
end

local function dissect_body(body, pinfo, tree, conversation)
  local is_box, revision = judge(conversation, pinfo, body)
  if not is_box then return dissect_frame(body, pinfo, tree, revision, conversation) end
  local item = tree:add(fields.box, body)
  local plaintext = dissect_box(body, item, conversation)
  if not plaintext then return "box" end
  local range = plaintext:len() > 0 and plaintext:tvb("Opened box")() or body(0, 0)
  return dissect_frame(range, pinfo, item, revision, conversation)
end

-- Link frames [LINK-*] ------------------------------------------------------------------------------------------------

-- Returns the code of a length that ends the connection; nil if the length is right.
local function length_fault(range)
  local low, high = range(0, 4):le_uint(), range(4, 4):le_uint()
  if high == 0 and low == 0 then return "link-length-zero" end
  if high > 0 or low > MAX_LINK_LENGTH then return "link-length-limit" end
end

-- Returns the size of a link frame in bytes; all the bytes there are, if its length ends the connection.
local function link_frame_size(tvb, _, offset)
  if tvb:len() - offset < LENGTH or length_fault(tvb(offset, LENGTH)) then return tvb:reported_len() - offset end
  return LENGTH + tvb(offset, 4):le_uint()
end

local function dissect_link_frame(tvb, pinfo, tree)
  local conversation, item, name = conversation_of(pinfo), tree:add(clusterlink, tvb()), "cut"
  pinfo.cols.info = ""
  if tvb:len() < LENGTH then
    item:add_proto_expert_info(unread, "The capture has only a part of this frame")
  else
    local code = length_fault(tvb(0, LENGTH))
    item:add_le(fields.length, tvb(0, LENGTH))
    if code then
      blame(item, tvb(0, LENGTH), { code = code, path = "length" })
      conversation.ended[sender(pinfo)] = pinfo.number
      name = "malformed"
    elseif tvb:len() < tvb:reported_len() then
      item:add_proto_expert_info(unread, "The capture has only a part of this frame")
    else
      name = dissect_body(tvb(LENGTH), pinfo, item, conversation) or "malformed"
    end
  end
  item:append_text(": " .. name)
  pinfo.cols.protocol = "ClusterLink"
  pinfo.cols.info = name .. " "
  pinfo.cols.info:fence()
  return tvb:len()
end

function clusterlink.dissector(tvb, pinfo, tree)
  local ended = conversation_of(pinfo).ended[sender(pinfo)]
  if ended and pinfo.number > ended then
    local item = tree:add(clusterlink, tvb())
    item:add_proto_expert_info(unread, ("Behind the length in packet %d, which ended the connection"):format(ended))
  else
    dissect_tcp_pdus(tvb, tree, LENGTH, link_frame_size, dissect_link_frame)
  end
  return tvb:len()
end

-- Tells whether bytes look like link frames: each length is in range, and a known type or a possible box follows it.
local function looks_right(tvb)
  local offset = 0
  while tvb:len() - offset > LENGTH do
    if length_fault(tvb(offset, LENGTH)) then return false end
    local size, message = tvb(offset, 4):le_uint(), MESSAGES[tvb(offset + LENGTH, 1):uint()]
    local is_message = message and (message.kind ~= "empty" or size == 1)
    if not is_message and size <= OVERHEAD then return false end
    offset = offset + LENGTH + size
  end
  return offset > 0
end

clusterlink:register_heuristic("tcp", function(tvb, pinfo, tree)
  if not looks_right(tvb) then return false end
  pinfo.conversation = clusterlink
  clusterlink.dissector(tvb, pinfo, tree)
  return true
end)

local tcp_ports, ports = DissectorTable.get("tcp.port"), clusterlink.prefs.ports
tcp_ports:add(ports, clusterlink)

function clusterlink.prefs_changed()
  if clusterlink.prefs.ports ~= ports then
    tcp_ports:remove(ports, clusterlink)
    ports = clusterlink.prefs.ports
    tcp_ports:add(ports, clusterlink)
  end
end
