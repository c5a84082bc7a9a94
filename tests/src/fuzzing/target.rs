//! Initiators that say anything to the target, in the full feature phase: what it answers is well-formed and
//! in order, nothing grows beyond its limit, its work ends, and the next initiator is served.

use iscsi::framing::{Event, Framer};
use iscsi::login::{InitiatorConfig, InitiatorLogin, InitiatorStep};
use iscsi::negotiate::LoginParams;
use iscsi::pdu::{
    Bhs, Header, MAX_DATA_SEGMENT_LEN, NopIn, Opcode, R2t, RESERVED_TAG, ScsiCommand, flags, padding,
};
use iscsi::scsi::{Cdb, Lun, op};
use iscsi::serial::Sn;
use iscsi::target::{Auth, ConnId, Disk, RamBackend, ServerConfig, TargetServer};

use super::Cursor;

const NAME: &str = "iqn.2026-01.example:disk";
const BLOCKS: u64 = 128;
/// What an input does at most.
const ACTS: usize = 128;
/// Turns that everything an input asked for may take: each act may be a command over the whole disk.
const TURNS: usize = 4096;

/// Operation codes that get past the first byte.
const OPCODES: &[u8] = &[
    op::TEST_UNIT_READY,
    op::REQUEST_SENSE,
    op::INQUIRY,
    0x15,
    0x16,
    0x17,
    0x1a,
    0x1b,
    0x25,
    0x28,
    0x2a,
    0x2e,
    0x2f,
    0x34,
    0x35,
    0x41,
    0x42,
    0x4d,
    0x55,
    0x5a,
    0x5e,
    0x5f,
    0x83,
    0x84,
    0x88,
    0x89,
    0x8a,
    0x8b,
    0x8e,
    0x8f,
    0x90,
    0x91,
    0x93,
    0x9c,
    0x9e,
    0x48,
    0x7f,
    0xa0,
    0xa3,
    0xa4,
    0xa8,
    0xaa,
    0xae,
    0xaf,
    0x08,
    0x0a,
    0x04,
    0x1e,
];

/// An initiator's end of a connection.
struct Peer {
    id: ConnId,
    framer: Framer,
    stat_sn: Option<Sn>,
    cmd_sn: u32,
    /// Tags of R2Ts and NOP-Ins that were received.
    tags: Vec<u32>,
    /// The stream is not what it was, or the target ended it.
    spoilt: bool,
}

impl Peer {
    fn login(server: &mut TargetServer, isid: u8, now_ns: u64) -> Option<Self> {
        let id = server.connect("127.0.0.1:3260", now_ns).ok()?;
        let mut peer = Self {
            id,
            framer: Framer::new(MAX_DATA_SEGMENT_LEN),
            stat_sn: None,
            cmd_sn: 1,
            tags: Vec::new(),
            spoilt: false,
        };
        let config = InitiatorConfig {
            initiator_name: "iqn.2026-01.example:host".into(),
            initiator_alias: None,
            target_name: Some(NAME.into()),
            isid: [0, 2, 0x3d, 0, 0, isid],
            cid: 0,
            cmd_sn: Sn(1),
            chap: None,
            params: LoginParams::default(),
        };
        let (mut login, mut pdu) = InitiatorLogin::start(config).expect("our own names fit");
        loop {
            peer.send(server, now_ns, *pdu.header, &pdu.data);
            let (bhs, data) = peer.receive(server).pop()?;
            match login.receive(bhs.view().expect("a Login Response"), &data) {
                InitiatorStep::Send(next) => pdu = next,
                InitiatorStep::Done(done) => {
                    peer.cmd_sn = done.exp_cmd_sn.0;
                    return Some(peer);
                }
                other => panic!("a sound login is refused: {other:?}"),
            }
        }
    }

    fn send(&mut self, server: &mut TargetServer, now_ns: u64, mut bhs: Bhs, data: &[u8]) {
        bhs.data_segment_length.set(data.len() as u32);
        let mut bytes = bhs.wire().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len() + padding(data.len()), 0);
        self.bytes(server, now_ns, &bytes);
    }

    fn bytes(&mut self, server: &mut TargetServer, now_ns: u64, mut bytes: &[u8]) {
        // The target need not take what the peer does not make room for.
        for _ in 0..64 {
            let taken = server.input(self.id, now_ns, bytes, &mut |out| out.fill(0x5a));
            bytes = &bytes[taken..];
            if bytes.is_empty() {
                return;
            }
            self.receive(server);
            if server.work(now_ns).is_none() && taken == 0 {
                break;
            }
        }
        self.spoilt = true;
    }

    /// Takes all output, and judges it.
    fn receive(&mut self, server: &mut TargetServer) -> Vec<(Bhs, Vec<u8>)> {
        let mut all = Vec::new();
        let mut data = Vec::new();
        loop {
            let bytes = server.output(self.id).to_vec();
            if bytes.is_empty() {
                return all;
            }
            server.consume_output(self.id, bytes.len());
            let mut input = &bytes[..];
            while let Some(event) = self.framer.next(&mut input).expect("the target's stream is sound") {
                match event {
                    Event::Header => data.clear(),
                    Event::Data { bytes, .. } => data.extend_from_slice(bytes),
                    Event::End { .. } => {
                        let bhs = *self.framer.bhs();
                        self.judge(&bhs);
                        all.push((bhs, std::mem::take(&mut data)));
                    }
                }
            }
        }
    }

    fn judge(&mut self, bhs: &Bhs) {
        bhs.pdu().expect("a well-formed PDU");
        let opcode = bhs.opcode().expect("it parsed");
        let word = |at: usize| u32::from_be_bytes(bhs.wire()[at..at + 4].try_into().expect("four bytes"));
        let takes = match opcode {
            Opcode::R2t => {
                self.tags.push(bhs.view::<R2t>().expect("it parsed").ttt.get());
                false
            }
            Opcode::DataIn => bhs.flags & flags::STATUS != 0,
            Opcode::NopIn => {
                self.tags.push(bhs.view::<NopIn>().expect("it parsed").ttt.get());
                bhs.itt.get() != RESERVED_TAG
            }
            _ => true,
        };
        let shown = opcode != Opcode::DataIn || takes;
        if shown {
            let found = Sn(word(24));
            assert_eq!(found, self.stat_sn.unwrap_or(found), "StatSN of {opcode}");
            self.stat_sn = Some(if takes { found.next() } else { found });
        }
    }
}

fn server() -> TargetServer {
    let config =
        ServerConfig { max_connections: 4, window: 16, output_limit: 64 << 10, ..ServerConfig::default() };
    let mut server = TargetServer::new(config);
    let disk = |serial| {
        Disk::new(Box::new(RamBackend::new((BLOCKS * 512) as usize)), 512, serial).expect("512 is a size")
    };
    server
        .add_target(NAME, vec![(0, disk("zero")), (3, disk("three"))], Auth::default())
        .expect("a sound name");
    server
}

/// A request that gets past the header, often to a command that is there.
fn request(c: &mut Cursor<'_>, peer: &mut Peer) -> (Bhs, Vec<u8>) {
    let what = c.byte();
    let mut bhs;
    if what & 0x0f < 8 {
        let mut pdu = ScsiCommand::new();
        pdu.flags = c.byte() | 0x80;
        pdu.expected_data_transfer_length.set(match c.byte() {
            n if n < 0x80 => u32::from(n) * 512,
            n => u32::from(n) << 17,
        });
        let opcode = c.pick(OPCODES);
        pdu.cdb = c.array();
        pdu.cdb[0] = opcode;
        bhs = *pdu;
    } else {
        let opcode = [0x00, 0x02, 0x04, 0x04, 0x05, 0x05, 0x06, 0x10][usize::from(what & 7)];
        let mut bytes: [u8; 48] = [0; 48];
        bytes[0] = opcode | (what >> 1 & 0x40);
        bytes[1] = c.byte();
        bytes[20..24].copy_from_slice(&RESERVED_TAG.to_be_bytes());
        let some = c.bytes(12);
        bytes[36..36 + some.len()].copy_from_slice(some);
        if opcode == 0x05 || opcode == 0x00 {
            let tag = peer.tags.get(usize::from(c.byte()) % peer.tags.len().max(1)).copied();
            bytes[20..24].copy_from_slice(&tag.unwrap_or(u32::from(what)).to_be_bytes());
        }
        bhs = *Bhs::from_bytes(&bytes);
    }
    let place = c.byte();
    bhs.lun =
        Lun::from_number([0, 0, 0, 3, 0, 1, 0x4000 - 1, 3][usize::from(place & 7)]).unwrap_or_default().0;
    bhs.itt.set(if place & 0xf0 == 0xf0 { RESERVED_TAG } else { u32::from(place >> 3) });
    // CmdSN: the next one, mostly.
    let sn = match c.byte() {
        n @ 0xf0.. => peer.cmd_sn.wrapping_add(u32::from(n & 0xf)).wrapping_sub(8),
        _ => peer.cmd_sn,
    };
    let mut wire = *bhs.wire();
    if wire[0] & 0x3f != 0x05 {
        wire[24..28].copy_from_slice(&sn.to_be_bytes());
        if wire[0] & 0x40 == 0 && sn == peer.cmd_sn {
            peer.cmd_sn = peer.cmd_sn.wrapping_add(1);
        }
    }
    let n = usize::from(c.byte());
    let data = match n {
        0..=63 => c.bytes(n).to_vec(),
        _ => {
            // Blocks of data that need not be spelled.
            let mut data = vec![n as u8; (n & 0x3f) * 128];
            let some = c.block();
            let fits = some.len().min(data.len());
            data[..fits].copy_from_slice(&some[..fits]);
            data
        }
    };
    (*Bhs::from_bytes(&wire), data)
}

pub(super) fn run(input: &[u8]) {
    let mut c = Cursor::new(input);
    let mut server = server();
    let mut now_ns = 0;
    let mut peers: Vec<Peer> = (0..2).filter_map(|i| Peer::login(&mut server, i, now_ns)).collect();
    for _ in 0..ACTS {
        if c.is_empty() {
            break;
        }
        let what = c.byte();
        let which = usize::from(what >> 7) % peers.len();
        let peer = &mut peers[which];
        match what & 0x1f {
            0..=22 if !peer.spoilt => {
                let (bhs, data) = request(&mut c, peer);
                peer.send(&mut server, now_ns, bhs, &data);
            }
            23 => peer.bytes(&mut server, now_ns, c.block()),
            24 => {
                now_ns += u64::from(c.byte()) << 28;
                server.tick(now_ns);
            }
            25 => {
                server.closed(peer.id);
                if let Some(again) = Peer::login(&mut server, which as u8, now_ns) {
                    peers[which] = again;
                }
            }
            26..=28 => {
                server.work(now_ns);
            }
            _ => {
                peer.receive(&mut server);
            }
        }
        for p in &peers {
            // A PDU is never cut, and one answer may stand behind the limit.
            assert!(server.output(p.id).len() <= (64 << 10) + (1 << 20), "output grows");
        }
        while server.next_event().is_some() {}
    }
    let mut turns = 0;
    while server.has_work() {
        server.work(now_ns);
        for p in &mut peers {
            p.receive(&mut server);
        }
        turns += 1;
        assert!(turns < TURNS, "the work does not end");
    }
    for p in &mut peers {
        p.receive(&mut server);
        server.closed(p.id);
    }
    let mut peer = Peer::login(&mut server, 9, now_ns).expect("the next initiator is served");
    let mut pdu = ScsiCommand::new();
    pdu.flags = flags::FINAL | 1;
    pdu.itt.set(77);
    pdu.cmd_sn.set(peer.cmd_sn);
    pdu.cdb = Cdb::TestUnitReady.encode().bytes;
    peer.send(&mut server, now_ns, *pdu, &[]);
    let answers = peer.receive(&mut server);
    assert!(answers.iter().any(|(bhs, _)| bhs.itt.get() == 77), "its first command is answered");
}
