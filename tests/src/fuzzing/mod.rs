//! Hostile peers, described once: for the fuzz targets in `fuzz/` and for the replay of what those kept
//! (`tests/tests/fuzz.rs`).
//!
//! Each target reads a description out of any bytes (a `Cursor`), so that a fuzzer's mutations of the bytes
//! are mutations of the description, plays it against the production code, and panics when something does not
//! hold that must hold whatever the peer does. Virtual time only, and no work that the input does not bound.
//! The two targets of the vfio-user seam are in `bus::vfio_user::fuzzing`.

mod bring_up;
mod helper;
mod login;
mod scsi;
mod stack;
mod target;
mod text;
mod uio;
mod wire;

/// Reads values out of any bytes; zero when they end.
pub(crate) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let bytes = self.bytes(N);
        out[..bytes.len()].copy_from_slice(bytes);
        out
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// At most `n` bytes.
    pub(crate) fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// As many bytes as a length byte in front of them says.
    pub(crate) fn block(&mut self) -> &'a [u8] {
        let n = self.byte();
        self.bytes(n.into())
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// One of `from`, which is not empty.
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}

/// A fuzz target: its name in `fuzz/`, and what it does with an input.
pub struct Target {
    /// Name of the binary and of the directory of seeds.
    pub name: &'static str,
    /// Plays an input. Panics when something does not hold.
    pub run: fn(&[u8]),
}

/// The targets, parsers first.
pub const TARGETS: &[Target] = &[
    Target { name: "text_keys", run: text::keys },
    Target { name: "pdu_framing", run: text::framing },
    Target { name: "scsi_data", run: scsi::run },
    Target { name: "login_initiator", run: login::initiator },
    Target { name: "login_target", run: login::target },
    Target { name: "target_pdus", run: target::run },
    Target { name: "lun_bring_up", run: bring_up::run },
    Target { name: "helper_frames", run: helper::frames },
    Target { name: "helper_ipc", run: helper::ipc },
    Target { name: "uio_seam", run: uio::run },
    Target { name: "wire_frames", run: wire::run },
    Target { name: "chip_registers", run: stack::registers },
    Target { name: "chip_memory", run: stack::memory },
    Target { name: "driver_completions", run: stack::completions },
    Target { name: "initiator_pdus", run: stack::initiator },
];

/// Plays `input` against the target called `name`.
///
/// # Panics
/// When there is none, and when something does not hold.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target of the list");
    (target.run)(input);
}
