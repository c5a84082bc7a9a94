//! The engine against a small initiator that checks what it receives: numbers, offsets, flags and digests of
//! every PDU.

mod commands;
mod faults;
mod io;
mod sessions;
mod turns;

use super::*;
use crate::chap::Credentials;
use crate::digest::{data_digest, header_digest};
use crate::framing::{Event as Part, Framer};
use crate::login::{ChapConfig, InitiatorConfig, InitiatorLogin, InitiatorStep, LoginFailure, LoginPdu};
use crate::negotiate::{LoginParams, SessionParams};
use crate::pdu::*;
use crate::scsi::{Bytchk, Cdb, Form, Lun, Sense, Status, Transfer};
use crate::serial::Sn;
use std::collections::{BTreeMap, VecDeque};

pub(super) const TARGET: &str = "iqn.2026-01.example:disk";
pub(super) const OTHER: &str = "iqn.2026-01.example:other";
pub(super) const SECOND: u64 = 1_000_000_000;
/// Blocks of LUN 0.
pub(super) const BLOCKS: usize = 8192;

/// The server, a clock, and entropy that a test can predict.
pub(super) struct Lab {
    pub(super) server: TargetServer,
    pub(super) now_ns: u64,
    /// Longest piece in which bytes travel.
    pub(super) piece: usize,
    /// Long commands get their turns from the test.
    pub(super) own_turns: bool,
    /// Where connections come from.
    pub(super) peer: Option<std::net::IpAddr>,
}

pub(super) fn ram(blocks: usize, serial: &str) -> Disk {
    Disk::new(Box::new(RamBackend::new(blocks * 512)), 512, serial).unwrap()
}

impl Lab {
    pub(super) fn new() -> Lab {
        Lab::with(ServerConfig::default())
    }

    pub(super) fn with(config: ServerConfig) -> Lab {
        let mut server = TargetServer::new(config);
        server
            .add_target(TARGET, vec![(0, ram(BLOCKS, "zero")), (3, ram(16, "three"))], Auth::default())
            .unwrap();
        server.add_target(OTHER, vec![(0, ram(16, "other"))], Auth::default()).unwrap();
        Lab { server, now_ns: 0, piece: usize::MAX, own_turns: false, peer: None }
    }

    /// The first target asks for the secret of `user`.
    pub(super) fn with_chap(config: ServerConfig) -> Lab {
        let mut server = TargetServer::new(config);
        let auth = Auth { chap: Some(Credentials::new("user", "secret-of-user")), mutual: None };
        server.add_target(TARGET, vec![(0, ram(16, "zero"))], auth).unwrap();
        Lab { server, now_ns: 0, piece: usize::MAX, own_turns: false, peer: None }
    }

    pub(super) fn input(&mut self, id: ConnId, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let piece = &bytes[..bytes.len().min(self.piece)];
            let taken = self.server.input(id, self.now_ns, piece, &mut |out| out.fill(0x5A));
            assert_eq!(taken, piece.len(), "backpressure that the test did not ask for");
            bytes = &bytes[taken..];
        }
        while !self.own_turns && self.server.work(self.now_ns).is_some() {}
    }

    /// Every byte of LUN 0.
    pub(super) fn contents(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.server.disk(TARGET, 0).unwrap().backend().read_at(0, BLOCKS * 512, &mut all).unwrap();
        all
    }

    pub(super) fn prefill(&mut self, data: &[u8]) {
        self.server.disk(TARGET, 0).unwrap().backend().write_at(0, data).unwrap();
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.server.next_event()).collect()
    }
}

/// A command's end, as the initiator sees it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Finished {
    pub(super) status: Status,
    pub(super) sense: Option<Sense>,
    pub(super) data: Vec<u8>,
    /// Positive: overflow. Negative: underflow.
    pub(super) residual: i64,
}

impl Finished {
    pub(super) fn check(&self) -> Sense {
        assert_eq!(self.status, Status::CHECK_CONDITION);
        self.sense.expect("sense with a check condition")
    }
}

/// A received PDU.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) bhs: Bhs,
    pub(super) data: Vec<u8>,
}

impl Seen {
    pub(super) fn is(&self, opcode: Opcode) -> bool {
        self.bhs.opcode() == Ok(opcode)
    }

    pub(super) fn view<T: Header + Copy>(&self) -> T {
        *self.bhs.view::<T>().unwrap()
    }
}

/// An initiator's connection.
pub(super) struct Host {
    pub(super) id: ConnId,
    framer: Framer,
    partial: Vec<u8>,
    pub(super) seen: VecDeque<Seen>,
    pub(super) params: SessionParams,
    pub(super) cmd_sn: Sn,
    pub(super) max_cmd_sn: Sn,
    stat_sn: Option<Sn>,
    pub(super) itt: u32,
    pub(super) tsih: u16,
    /// R2Ts received, by task.
    r2ts: BTreeMap<u32, u32>,
}

pub(super) fn initiator(isid: u8) -> InitiatorConfig {
    InitiatorConfig {
        initiator_name: "iqn.2026-01.example:host".into(),
        initiator_alias: None,
        target_name: Some(TARGET.into()),
        isid: [0, 2, 0x3d, 0, 0, isid],
        cid: 0,
        cmd_sn: Sn(0xFFFF_FFF0),
        chap: None,
        params: LoginParams::default(),
    }
}

impl Host {
    pub(super) fn connect(lab: &mut Lab) -> Host {
        let id = lab.server.connect_from(lab.peer, "127.0.0.1:3260", lab.now_ns).unwrap();
        Host {
            id,
            framer: Framer::new(MAX_DATA_SEGMENT_LEN),
            partial: Vec::new(),
            seen: VecDeque::new(),
            params: SessionParams::default(),
            cmd_sn: Sn(0),
            max_cmd_sn: Sn(0),
            stat_sn: None,
            itt: 0,
            tsih: 0,
            r2ts: BTreeMap::new(),
        }
    }

    /// Logs in and takes the power-on unit attentions off the units.
    pub(super) fn login(lab: &mut Lab, config: InitiatorConfig) -> Host {
        let normal = config.target_name.is_some();
        let mut host = Host::try_login(lab, config).unwrap();
        if normal {
            for lun in [0, 3] {
                host.run(lab, lun, &Cdb::TestUnitReady, 0, &[]);
            }
        }
        host
    }

    pub(super) fn try_login(lab: &mut Lab, config: InitiatorConfig) -> Result<Host, LoginFailure> {
        let mut host = Host::connect(lab);
        let (mut login, mut pdu) = InitiatorLogin::start(config)?;
        loop {
            let LoginPdu { header, data } = pdu;
            host.send(lab, *header, &data);
            // A proof may have to wait.
            while host.seen.is_empty() {
                host.poll(lab);
                if host.seen.is_empty() {
                    lab.now_ns = lab.server.tick(lab.now_ns).expect("somebody waits").max(lab.now_ns);
                    lab.server.tick(lab.now_ns);
                }
            }
            let seen = host.next(lab);
            match login.receive(&seen.view(), &seen.data) {
                InitiatorStep::Send(next) => pdu = next,
                InitiatorStep::Done(done) => {
                    host.params = done.params;
                    host.cmd_sn = done.exp_cmd_sn;
                    host.max_cmd_sn = done.max_cmd_sn;
                    host.tsih = done.tsih;
                    let p = &host.params;
                    host.framer
                        .configure(p.header_digest, p.data_digest, p.max_recv_data_segment_length)
                        .unwrap();
                    return Ok(host);
                }
                InitiatorStep::Failed(failure) => return Err(failure),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The bytes of a PDU as this connection sends it.
    pub(super) fn bytes(&self, mut bhs: Bhs, data: &[u8]) -> Vec<u8> {
        bhs.data_segment_length.set(data.len() as u32);
        let mut bytes = bhs.wire().to_vec();
        if self.params.header_digest {
            bytes.extend_from_slice(&header_digest(bhs.wire(), &[]));
        }
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len() + padding(data.len()), 0);
        if self.params.data_digest && !data.is_empty() {
            bytes.extend_from_slice(&data_digest(data));
        }
        bytes
    }

    pub(super) fn send(&mut self, lab: &mut Lab, bhs: Bhs, data: &[u8]) {
        let bytes = self.bytes(bhs, data);
        lab.input(self.id, &bytes);
    }

    /// Takes all output there is.
    pub(super) fn poll(&mut self, lab: &mut Lab) {
        loop {
            let output = lab.server.output(self.id);
            let bytes = output[..output.len().min(lab.piece)].to_vec();
            if bytes.is_empty() {
                return;
            }
            lab.server.consume_output(self.id, bytes.len());
            let mut input = &bytes[..];
            while let Some(part) = self.framer.next(&mut input).unwrap() {
                match part {
                    Part::Header => self.partial.clear(),
                    Part::Data { bytes, .. } => self.partial.extend_from_slice(bytes),
                    Part::End { data_digest_ok } => {
                        assert!(data_digest_ok);
                        let seen = Seen { bhs: *self.framer.bhs(), data: std::mem::take(&mut self.partial) };
                        self.check_numbers(&seen);
                        self.seen.push_back(seen);
                    }
                }
            }
        }
    }

    /// StatSN counts up by one on each PDU that takes one, and is only shown on the others; the window never
    /// shrinks.
    fn check_numbers(&mut self, seen: &Seen) {
        seen.bhs.pdu().expect("a well-formed response");
        let word = |at: usize| Sn(u32::from_be_bytes(seen.bhs.wire()[at..at + 4].try_into().unwrap()));
        if seen.is(Opcode::R2t) {
            let count = self.r2ts.entry(seen.bhs.itt.get()).or_default();
            assert_eq!(seen.view::<R2t>().r2t_sn.get(), *count);
            *count += 1;
        }
        let takes = match seen.bhs.opcode().unwrap() {
            Opcode::R2t => false,
            Opcode::DataIn => seen.bhs.flags & flags::STATUS != 0,
            Opcode::NopIn => seen.bhs.itt.get() != RESERVED_TAG,
            _ => true,
        };
        let expected = self.stat_sn.unwrap_or(word(24));
        if seen.is(Opcode::DataIn) && !takes {
            // Not meaningful without the status.
        } else {
            assert_eq!(word(24), expected, "StatSN of {:?}", seen.bhs.opcode());
        }
        self.stat_sn = Some(if takes { expected.next() } else { expected });
        if !seen.is(Opcode::LoginResponse) {
            assert!(word(32).ge(self.max_cmd_sn), "MaxCmdSN goes back");
            self.max_cmd_sn.raise(word(32));
        }
    }

    /// The next PDU, which has to be there.
    pub(super) fn next(&mut self, lab: &mut Lab) -> Seen {
        self.poll(lab);
        self.seen.pop_front().expect("a PDU from the target")
    }

    pub(super) fn nothing_more(&mut self, lab: &mut Lab) {
        self.poll(lab);
        assert!(self.seen.is_empty(), "unexpected: {:?}", self.seen);
    }

    /// A SCSI Command header with the next numbers.
    pub(super) fn command(&mut self, lun: u16, cdb: &Cdb, flags: u8, edtl: u32) -> ScsiCommand {
        self.itt += 1;
        let mut pdu = ScsiCommand::new();
        pdu.flags = flags | TaskAttribute::Simple.code();
        pdu.lun = Lun::from_number(lun).unwrap().0;
        pdu.itt.set(self.itt);
        pdu.expected_data_transfer_length.set(edtl);
        pdu.cmd_sn = self.cmd_sn.take().into();
        pdu.cdb = cdb.encode().bytes;
        pdu
    }

    /// Runs a command to its end: with data-out when `out` is not empty, else reading up to `edtl` bytes.
    pub(super) fn run(&mut self, lab: &mut Lab, lun: u16, cdb: &Cdb, edtl: u32, out: &[u8]) -> Finished {
        let mut flags = flags::FINAL;
        if !out.is_empty() {
            flags |= flags::WRITE;
        } else if edtl > 0 {
            flags |= flags::READ;
        }
        self.run_with(lab, lun, cdb, flags, if out.is_empty() { edtl } else { out.len() as u32 }, out)
    }

    /// The same with the flags and the expected length as given. Data goes out as the negotiated parameters
    /// allow.
    pub(super) fn run_with(
        &mut self,
        lab: &mut Lab,
        lun: u16,
        cdb: &Cdb,
        mut flags: u8,
        edtl: u32,
        out: &[u8],
    ) -> Finished {
        let writes = flags & flags::WRITE != 0;
        let first_burst = self.params.first_burst_length.min(edtl) as usize;
        let most = self.params.max_send_data_segment_length as usize;
        let immediate = if writes && self.params.immediate_data { first_burst.min(most) } else { 0 };
        let unsolicited = if writes && !self.params.initial_r2t { first_burst } else { immediate };
        if unsolicited > immediate {
            flags &= !flags::FINAL;
        }
        let pdu = self.command(lun, cdb, flags, edtl);
        let itt = self.itt;
        self.send(lab, *pdu, &out[..immediate]);
        if unsolicited > immediate {
            self.data_out(lab, lun, RESERVED_TAG, immediate, &out[immediate..unsolicited]);
        }
        self.finish(lab, itt, lun, out)
    }

    /// Data-Out PDUs for a whole sequence.
    pub(super) fn data_out(&mut self, lab: &mut Lab, lun: u16, ttt: u32, offset: usize, data: &[u8]) {
        let most = self.params.max_send_data_segment_length as usize;
        let count = data.len().div_ceil(most);
        for (at, piece) in data.chunks(most).enumerate() {
            let pdu = self.data_out_pdu(lun, ttt, at as u32, offset + at * most, at + 1 == count);
            self.send(lab, *pdu, piece);
        }
    }

    pub(super) fn data_out_pdu(
        &self,
        lun: u16,
        ttt: u32,
        data_sn: u32,
        offset: usize,
        last: bool,
    ) -> DataOut {
        let mut pdu = DataOut::new();
        pdu.lun = Lun::from_number(lun).unwrap().0;
        pdu.itt.set(self.itt);
        pdu.ttt.set(ttt);
        pdu.data_sn.set(data_sn);
        pdu.buffer_offset.set(offset as u32);
        pdu.flags = if last { flags::FINAL } else { 0 };
        pdu
    }

    /// Receives until the command ends, answering R2Ts from `out`.
    pub(super) fn finish(&mut self, lab: &mut Lab, itt: u32, lun: u16, out: &[u8]) -> Finished {
        let (mut data, mut data_sn, mut burst) = (Vec::new(), 0, 0u32);
        loop {
            let seen = self.next(lab);
            assert_eq!(seen.bhs.itt.get(), itt, "{:?}", seen.bhs.opcode());
            let signed = |flags: u8, count: u32| match flags & (flags::OVERFLOW | flags::UNDERFLOW) {
                flags::OVERFLOW => i64::from(count),
                flags::UNDERFLOW => -i64::from(count),
                _ => {
                    assert_eq!(count, 0, "a residual without its flag");
                    0
                }
            };
            match seen.bhs.opcode().unwrap() {
                Opcode::DataIn => {
                    let pdu: DataIn = seen.view();
                    assert_eq!((pdu.data_sn.get(), pdu.buffer_offset.get()), (data_sn, data.len() as u32));
                    assert!(seen.data.len() <= self.params.max_recv_data_segment_length as usize);
                    burst += seen.data.len() as u32;
                    assert!(burst <= self.params.max_burst_length);
                    if pdu.is_final() {
                        burst = 0;
                    }
                    data_sn += 1;
                    data.extend_from_slice(&seen.data);
                    if pdu.has_status() {
                        let residual = signed(pdu.flags, pdu.residual.get());
                        return Finished { status: Status(pdu.status), sense: None, data, residual };
                    }
                }
                Opcode::R2t => {
                    let pdu: R2t = seen.view();
                    let (at, len) = (pdu.buffer_offset.get() as usize, pdu.desired_length.get() as usize);
                    assert!(len <= self.params.max_burst_length as usize && at + len <= out.len());
                    let open = 1 + self.seen.iter().filter(|seen| seen.is(Opcode::R2t)).count();
                    assert!(open <= usize::from(self.params.max_outstanding_r2t));
                    self.data_out(lab, lun, pdu.ttt.get(), at, &out[at..at + len]);
                }
                Opcode::ScsiResponse => {
                    let pdu: ScsiResponse = seen.view();
                    assert_eq!(pdu.exp_data_sn.get(), data_sn + self.r2ts.get(&itt).unwrap_or(&0));
                    let sense = seen.data.get(..2).map(|len| {
                        assert_eq!(usize::from(u16::from_be_bytes([len[0], len[1]])), seen.data.len() - 2);
                        Sense::parse(&seen.data[2..]).unwrap()
                    });
                    let residual = signed(pdu.flags, pdu.residual.get());
                    return Finished { status: Status(pdu.status), sense, data, residual };
                }
                other => panic!("unexpected {other}"),
            }
        }
    }

    /// A task management request with the next ITT, immediate.
    pub(super) fn manage(
        &mut self,
        lab: &mut Lab,
        function: TmfFunction,
        lun: u16,
        task: u32,
        ref_cmd_sn: Sn,
    ) -> TmfResponse {
        self.itt += 1;
        let mut pdu = TaskManagementRequest::new();
        pdu.set_function(function);
        pdu.set_immediate(true);
        pdu.lun = Lun::from_number(lun).unwrap().0;
        pdu.itt.set(self.itt);
        pdu.referenced_task_tag.set(task);
        pdu.cmd_sn = self.cmd_sn.into();
        pdu.ref_cmd_sn = ref_cmd_sn.into();
        self.send(lab, *pdu, &[]);
        let seen = self.next(lab);
        seen.view::<TaskManagementResponse>().code().unwrap()
    }
}

pub(super) fn read(lba: u64, blocks: u32) -> Cdb {
    Cdb::Read(Transfer::new(lba, blocks))
}

pub(super) fn write(lba: u64, blocks: u32) -> Cdb {
    Cdb::Write(Transfer::new(lba, blocks))
}

/// Bytes that differ from block to block and within one.
pub(super) fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(40_503)).to_be_bytes()[1])
        .collect()
}

pub(super) fn chap(name: &str, secret: &str) -> Option<ChapConfig> {
    Some(ChapConfig { own: Credentials::new(name, secret), mutual: None })
}
