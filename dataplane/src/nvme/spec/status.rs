//! Status codes (base, "Status Field Definition"; KV, "Command Specific Status").

/// The 15-bit status field of a completion: status code, status code type, retry delay, more, do-not-retry.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(u16);

const DNR: u16 = 1 << 14;

impl Status {
    /// 0h/00h: the command completed without error.
    pub const SUCCESS: Self = Self(0);
    /// 0h/01h: the opcode is not known.
    pub const INVALID_OPCODE: Self = Self::generic(0x01).do_not_retry();
    /// 0h/02h: a field holds a value that is reserved or not supported.
    pub const INVALID_FIELD: Self = Self::generic(0x02).do_not_retry();
    /// 0h/03h: the command identifier is in use already.
    pub const COMMAND_ID_CONFLICT: Self = Self::generic(0x03).do_not_retry();
    /// 0h/04h: moving the data failed; a retry may mend it.
    pub const DATA_TRANSFER_ERROR: Self = Self::generic(0x04);
    /// 0h/06h: an error inside the controller.
    pub const INTERNAL_ERROR: Self = Self::generic(0x06);
    /// 0h/07h: the command was aborted on request.
    pub const ABORT_REQUESTED: Self = Self::generic(0x07);
    /// 0h/08h: the command was aborted because its submission queue was deleted.
    pub const ABORT_SQ_DELETION: Self = Self::generic(0x08);
    /// 0h/0Bh: the namespace does not exist, or is not attached to this host.
    pub const INVALID_NAMESPACE: Self = Self::generic(0x0B).do_not_retry();
    /// 0h/0Ch: the command is not allowed in this state.
    pub const COMMAND_SEQUENCE_ERROR: Self = Self::generic(0x0C).do_not_retry();
    /// 0h/0Dh: an SGL segment descriptor is not valid.
    pub const INVALID_SGL_SEGMENT: Self = Self::generic(0x0D).do_not_retry();
    /// 0h/0Eh: the number of SGL descriptors is not valid.
    pub const INVALID_SGL_COUNT: Self = Self::generic(0x0E).do_not_retry();
    /// 0h/0Fh: the SGL is shorter than the data.
    pub const DATA_SGL_LENGTH_INVALID: Self = Self::generic(0x0F).do_not_retry();
    /// 0h/11h: the type of an SGL descriptor is not supported.
    pub const SGL_TYPE_INVALID: Self = Self::generic(0x11).do_not_retry();
    /// 0h/13h: a PRP entry's offset is not valid.
    pub const PRP_OFFSET_INVALID: Self = Self::generic(0x13).do_not_retry();
    /// 0h/16h: an offset into the capsule is not valid.
    pub const SGL_OFFSET_INVALID: Self = Self::generic(0x16).do_not_retry();
    /// 0h/19h: the host was silent for longer than its keep alive timeout.
    pub const KEEP_ALIVE_EXPIRED: Self = Self::generic(0x19);
    /// 0h/1Ah: the keep alive timeout is not valid.
    pub const KEEP_ALIVE_INVALID: Self = Self::generic(0x1A).do_not_retry();
    /// 0h/22h: the transport failed in passing; a retry may mend it.
    pub const TRANSIENT_TRANSPORT_ERROR: Self = Self::generic(0x22);
    /// 0h/81h: no room, or the namespace's quota is used up.
    pub const CAPACITY_EXCEEDED: Self = Self::generic(0x81).do_not_retry();
    /// 0h/82h: the namespace is not ready; try again.
    pub const NAMESPACE_NOT_READY: Self = Self::generic(0x82);
    /// 0h/85h (KV): the value's size is not valid.
    pub const INVALID_VALUE_SIZE: Self = Self::generic(0x85).do_not_retry();
    /// 0h/86h (KV): the key's size is not valid.
    pub const INVALID_KEY_SIZE: Self = Self::generic(0x86).do_not_retry();
    /// 0h/87h (KV): there is no such key.
    pub const KEY_DOES_NOT_EXIST: Self = Self::generic(0x87).do_not_retry();
    /// 0h/88h (KV): the value could not be read from the medium.
    pub const UNRECOVERED_ERROR: Self = Self::generic(0x88).do_not_retry();
    /// 0h/89h (KV): the key exists and the command asked that it must not.
    pub const KEY_EXISTS: Self = Self::generic(0x89).do_not_retry();
    /// 1h/00h: the completion queue does not exist.
    pub const COMPLETION_QUEUE_INVALID: Self = Self::command_specific(0x00).do_not_retry();
    /// 1h/01h: the queue identifier is in use or out of range.
    pub const INVALID_QUEUE_ID: Self = Self::command_specific(0x01).do_not_retry();
    /// 1h/02h: the queue size is zero or too large.
    pub const INVALID_QUEUE_SIZE: Self = Self::command_specific(0x02).do_not_retry();
    /// 1h/03h: more aborts at once than the controller takes.
    pub const ABORT_LIMIT_EXCEEDED: Self = Self::command_specific(0x03);
    /// 1h/05h: more asynchronous event requests than the controller takes.
    pub const AER_LIMIT_EXCEEDED: Self = Self::command_specific(0x05).do_not_retry();
    /// 1h/08h: the interrupt vector is not valid.
    pub const INVALID_INTERRUPT_VECTOR: Self = Self::command_specific(0x08).do_not_retry();
    /// 1h/09h: the log page is not supported.
    pub const INVALID_LOG_PAGE: Self = Self::command_specific(0x09).do_not_retry();
    /// 1h/0Ch: a completion queue cannot go while a submission queue uses it.
    pub const INVALID_QUEUE_DELETION: Self = Self::command_specific(0x0C).do_not_retry();
    /// 1h/0Dh: the feature cannot be saved.
    pub const FEATURE_NOT_SAVEABLE: Self = Self::command_specific(0x0D).do_not_retry();
    /// 1h/0Eh: the feature cannot be changed.
    pub const FEATURE_NOT_CHANGEABLE: Self = Self::command_specific(0x0E).do_not_retry();

    /// 1h/80h (Connect, Disconnect): the record format is not known.
    pub const CONNECT_INCOMPATIBLE_FORMAT: Self = Self::command_specific(0x80).do_not_retry();
    /// 1h/81h (Connect): no controller is free; try again later.
    pub const CONNECT_CONTROLLER_BUSY: Self = Self::command_specific(0x81);
    /// 1h/82h (Connect): a parameter is not valid; DW0 tells which, see
    /// [`ConnectInvalid`](super::fabrics::ConnectInvalid).
    pub const CONNECT_INVALID_PARAMETERS: Self = Self::command_specific(0x82).do_not_retry();
    /// 1h/83h (Connect): the subsystem is elsewhere; ask the discovery service again.
    pub const CONNECT_RESTART_DISCOVERY: Self = Self::command_specific(0x83).do_not_retry();
    /// 1h/84h (Connect): the host may not connect to the subsystem.
    pub const CONNECT_INVALID_HOST: Self = Self::command_specific(0x84).do_not_retry();
    /// 1h/85h (Disconnect): the queue is not an I/O queue.
    pub const INVALID_QUEUE_TYPE: Self = Self::command_specific(0x85).do_not_retry();

    /// A status of code type 0h (generic).
    #[must_use]
    pub const fn generic(code: u8) -> Self {
        Self(code as u16)
    }

    /// A status of code type 1h (command specific).
    #[must_use]
    pub const fn command_specific(code: u8) -> Self {
        Self((1 << 8) | code as u16)
    }

    /// The same status with the do-not-retry bit.
    #[must_use]
    pub const fn do_not_retry(self) -> Self {
        Self(self.0 | DNR)
    }

    /// The field as it stands in DW3 bits 31:17.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// A status from DW3 bits 31:17.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7FFF)
    }

    /// Status code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0 as u8
    }

    /// Status code type.
    #[must_use]
    pub const fn code_type(self) -> u8 {
        ((self.0 >> 8) & 0b111) as u8
    }

    /// Whether a retry cannot mend it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.0 & DNR != 0
    }

    /// Whether the command completed without error.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7FF == 0
    }

    /// A short name in English, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.code_type(), self.code()) {
            (0, 0x00) => "success",
            (0, 0x01) => "invalid command opcode",
            (0, 0x02) => "invalid field in command",
            (0, 0x03) => "command id conflict",
            (0, 0x04) => "data transfer error",
            (0, 0x06) => "internal error",
            (0, 0x07) => "command abort requested",
            (0, 0x08) => "command aborted: its submission queue was deleted",
            (0, 0x0B) => "invalid namespace, or not attached to this host",
            (0, 0x0C) => "command sequence error",
            (0, 0x0D) => "invalid SGL segment descriptor",
            (0, 0x0E) => "invalid number of SGL descriptors",
            (0, 0x0F) => "SGL shorter than the data",
            (0, 0x11) => "SGL descriptor type not supported",
            (0, 0x13) => "PRP offset invalid",
            (0, 0x16) => "SGL offset invalid",
            (0, 0x19) => "keep alive timer expired",
            (0, 0x1A) => "keep alive timeout invalid",
            (0, 0x22) => "transient transport error",
            (0, 0x81) => "capacity exceeded",
            (0, 0x82) => "namespace not ready",
            (0, 0x85) => "invalid value size",
            (0, 0x86) => "invalid key size",
            (0, 0x87) => "key does not exist",
            (0, 0x88) => "unrecovered error",
            (0, 0x89) => "key exists",
            (1, 0x00) => "completion queue invalid",
            (1, 0x01) => "invalid queue identifier",
            (1, 0x02) => "invalid queue size",
            (1, 0x03) => "abort command limit exceeded",
            (1, 0x05) => "asynchronous event request limit exceeded",
            (1, 0x08) => "invalid interrupt vector",
            (1, 0x09) => "invalid log page",
            (1, 0x0C) => "invalid queue deletion",
            (1, 0x0D) => "feature not saveable",
            (1, 0x0E) => "feature not changeable",
            (1, 0x80) => "connect incompatible format",
            (1, 0x81) => "connect controller busy",
            (1, 0x82) => "connect invalid parameters",
            (1, 0x83) => "connect restart discovery",
            (1, 0x84) => "connect invalid host",
            (1, 0x85) => "invalid queue type",
            _ => "unknown status",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:x}h/{:02x}h)", self.name(), self.code_type(), self.code())
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
