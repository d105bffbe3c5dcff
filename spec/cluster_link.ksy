meta:
  id: cluster_link
  title: The cluster link protocol
  license: MIT
  ks-version: 0.11
  encoding: UTF-8
  endian: le
doc: |
  The binary layouts of the cluster link protocol (protocol.md). Kaitai does not open boxes, does not check JSON, and
  does not know what was sent before. Each type consumes all the bytes that it is given, or refuses them. The main type
  is a stream of link frames.
seq:
  - id: stream
    type: link_stream(268435456)
enums:
  msg_type:
    0x01: handshake_hello
    0x02: handshake_ack
    0x03: ping
    0x04: pong
    0x05: inference_step
    0x06: inference_token
    0x07: jaccl_bootstrap
    0x08: prompt_tokens
    0x09: step_token
    0x0a: session_stop
    0x0b: pp_activation
    0x0c: pp_token
    0x0d: pp_session_end
    0x40: side_channel_part
    0x41: side_channel_whole
    0x42: outcome
    0x43: versions
    0xff: session_end
types:
  link_stream:
    params:
      - id: max_length
        type: u8
        doc: 65536 before the handshake is done. [SESSION-LEN-MAX]
    seq:
      - id: frames
        type: link_frame(max_length)
        repeat: eos
  link_frame:
    doc: "[LINK-LAYOUT, LINK-LEN-MIN, LINK-LEN-MAX]"
    params:
      - id: max_length
        type: u8
    seq:
      - id: length
        type: u8
        valid:
          min: 1
          max: max_length
      - id: body
        size: length
        doc: A cluster frame or, in revision 2 after the handshake, a sealed box.
  sealed_box:
    doc: "AES-256-GCM without associated data. [SEAL-LAYOUT]"
    seq:
      - id: nonce
        size: 12
      - id: ciphertext
        size: _io.size - 28
      - id: tag
        size: 16
  cluster_frame:
    doc: "[FRAME-TYPE, EXT-UNINVITED]"
    params:
      - id: revision
        type: u1
      - id: side_channel
        type: bool
        doc: Whether side-channel/1 is agreed.
      - id: outcome
        type: bool
        doc: Whether outcome/1 is agreed.
    seq:
      - id: type
        type: u1
        enum: msg_type
        valid:
          expr: |
            (_.to_i >= 0x01 and _.to_i <= (revision == 1 ? 0x07 : 0x0d)) or _.to_i == 0xff
            or (revision == 2 and side_channel and (_.to_i == 0x40 or _.to_i == 0x41))
            or (revision == 2 and outcome and (_.to_i == 0x42 or _.to_i == 0x43))
      - id: payload
        type:
          switch-on: type
          cases:
            msg_type::ping: nothing
            msg_type::session_end: nothing
            msg_type::side_channel_part: numbered(1048576)
            msg_type::side_channel_whole: numbered(8388608)
            _: bytes_to_end
  nothing:
    doc: "[PAYLOAD-EMPTY]"
    seq:
      - id: rest
        size-eos: true
        valid:
          expr: _.length == 0
  bytes_to_end:
    doc: JSON text, or a tensor box.
    seq:
      - id: data
        size-eos: true
  numbered:
    doc: "[EXT-SIDE-CHANNEL, EXT-SIDE-CHANNEL-SIZE]"
    params:
      - id: max_size
        type: u4
    seq:
      - id: sequence
        type: u4
      - id: data
        size-eos: true
        valid:
          expr: _.length <= max_size
  activation:
    doc: "[TENSOR-ACTIVATION, TENSOR-STOP]"
    params:
      - id: hidden_dim
        type: u4
        doc: Known from the model; not on the wire.
    seq:
      - id: seq_len
        type: s4
        valid:
          min: -1
        doc: -1 means stop.
      - id: data
        size: '(seq_len > 0 ? seq_len : 0) * hidden_dim * 2'
        doc: bfloat16, row-major [1, seq_len, hidden_dim].
      - id: end
        type: nothing
  token:
    doc: "[TENSOR-TOKEN]"
    seq:
      - id: token_id
        type: s4
      - id: end
        type: nothing
  jaccl_hello:
    doc: "[JACCL-HELLO]"
    seq:
      - id: rank
        type: s4
        valid:
          min: 1
          max: 63
      - id: end
        type: nothing
  jaccl_destination:
    doc: "[JACCL-DESTINATION]"
    seq:
      - id: local_id
        type: s4
        valid:
          min: -1
        doc: -1 marks a rank's own entry, whose other bytes have no meaning.
      - id: endpoint
        type: jaccl_endpoint
        size: 28
        if: local_id != -1
      - id: undefined
        size: 28
        if: local_id == -1
      - id: end
        type: nothing
  jaccl_endpoint:
    seq:
      - id: queue_pair_number
        type: s4
        valid:
          min: 0
      - id: packet_sequence_number
        type: s4
        valid: 7
      - id: padding
        size: 4
      - id: gid
        size: 16
