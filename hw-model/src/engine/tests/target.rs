//! The engine against a target that was written without looking at it: the embedded one.

use std::collections::BTreeMap;

use hsi::iscsi::bits::{Cdb, Itt, Lun, TaskType};
use hsi::iscsi::cq::{CmdResponse, CqOpcode, LoginResponse};
use hsi::iscsi::sq::{LogoutRequest, SqOpcode};
use iscsi::target::{Auth, ConnId, Disk, RamBackend, ServerConfig, TargetServer};

use super::super::*;
use super::rig::{DATA, INIT, RESPONSE, Rig, pattern};
use crate::tcp::memory::{MemoryNet, PeerReceived};

const NAME: &str = "iqn.2024-01.example:disk";

struct Session {
    rig: Rig,
    server: TargetServer,
    conn: ConnId,
    cmd_sn: u32,
}

impl Session {
    /// Logs in with these proposals, and programs what came of them.
    fn login(window: usize, keys: &[(&str, &str)]) -> Self {
        let mut server = TargetServer::new(ServerConfig::default());
        let disk = Disk::new(Box::new(RamBackend::new(4 << 20)), 512, "1").unwrap();
        server.add_target(NAME, vec![(0, disk)], Auth::default()).unwrap();
        let rig = Rig::with(INIT, MemoryNet::new(window)).connect();
        let conn = server.connect("10.0.0.1:3260", 0).unwrap();
        let mut s = Self { rig, server, conn, cmd_sn: 7 };

        let mut text =
            format!("InitiatorName=iqn.2024-01.example:host\0TargetName={NAME}\0SessionType=Normal\0");
        text.extend(keys.iter().map(|(k, v)| format!("{k}={v}\0")));
        let mut wqe = s.rig.login_request(text.as_bytes());
        wqe.op_attr = 0x87;
        s.rig.post(wqe);
        s.pump();
        let cqe = s.rig.reap_opcode(CqOpcode::LOGIN_RSP);
        let r = *cqe.view::<LoginResponse>();
        assert_eq!((r.response_flags, r.status_class), (0x87, 0));
        let answer = String::from_utf8(s.rig.read(RESPONSE, r.data_length.get() as usize)).unwrap();
        let mut agreed: BTreeMap<&str, &str> = keys.iter().copied().collect();
        agreed.remove("MaxRecvDataSegmentLength");
        agreed.extend(answer.split('\0').filter_map(|pair| pair.split_once('=')));
        let number = |key, default| agreed.get(key).map_or(default, |v| v.parse().unwrap());
        let yes = |key| agreed.get(key) != Some(&"No");
        let mine = keys.iter().find(|(k, _)| *k == "MaxRecvDataSegmentLength");
        let params = UpdateParams {
            header_digest: agreed.get("HeaderDigest") == Some(&"CRC32C"),
            data_digest: agreed.get("DataDigest") == Some(&"CRC32C"),
            initial_r2t: yes("InitialR2T"),
            immediate_data: yes("ImmediateData"),
            max_outstanding_r2ts: number("MaxOutstandingR2T", 1) as u8,
            max_send_pdu: number("MaxRecvDataSegmentLength", 8192),
            max_recv_pdu: mine.map_or(8192, |(_, v)| v.parse().unwrap()),
            first_burst: number("FirstBurstLength", 65536),
            max_burst: number("MaxBurstLength", 262_144),
            exp_stat_sn: r.stat_sn.get() + 1,
        };
        s.rig = s.rig.update_keeping_events(params);
        s
    }

    /// Carries bytes until both ends rest.
    fn pump(&mut self) {
        let (id, mut buf) = (self.rig.stream.unwrap(), vec![0; 10_000]);
        loop {
            self.rig.run();
            let mut moved = false;
            if let PeerReceived::Bytes(n) = self.rig.target.recv(id, &mut buf) {
                let taken = self.server.input(self.conn, 0, &buf[..n], &mut |out| out.fill(1));
                assert_eq!(taken, n, "no backpressure here");
                while self.server.work(0).is_some() {}
                moved = true;
            }
            let sent = self.rig.target.send(id, self.server.output(self.conn));
            self.server.consume_output(self.conn, sent);
            if !moved && sent == 0 {
                return;
            }
        }
    }

    /// Posts a WRITE (10) or READ (10) from block `lba` on.
    fn io(&mut self, index: u16, write: bool, lba: u8, pieces: &[u16]) {
        let mut wqe = self.rig.command(index, write, DATA, pieces);
        let blocks: u32 = pieces.iter().map(|&n| u32::from(n)).sum::<u32>() / 512;
        let mut cdb = [0; 16];
        (cdb[0], cdb[5]) = (if write { 0x2a } else { 0x28 }, lba);
        cdb[7..9].copy_from_slice(&(blocks as u16).to_be_bytes());
        wqe.cdb = Cdb::from_wire(cdb);
        wqe.lun = Lun::from_wire([0; 8]);
        wqe.cmd_sn = hsi::U32::new(self.cmd_sn);
        self.cmd_sn += 1;
        self.rig.post(wqe);
        self.pump();
    }

    fn status(&mut self) -> CmdResponse {
        let cqe = self.rig.reap().unwrap_or_else(|| panic!("no CQE: {:?}", self.rig.events));
        *cqe.view()
    }
}

#[test]
fn what_is_written_is_read_back_whatever_was_negotiated() {
    let sizes: [&[(&str, &str)]; 3] = [
        &[],
        &[("MaxRecvDataSegmentLength", "512"), ("FirstBurstLength", "1024"), ("MaxBurstLength", "2048")],
        &[
            ("MaxRecvDataSegmentLength", "262144"),
            ("FirstBurstLength", "16384"),
            ("MaxBurstLength", "16384"),
            ("MaxOutstandingR2T", "8"),
        ],
    ];
    for digest in ["None", "CRC32C"] {
        for (r2t, immediate) in [("Yes", "Yes"), ("Yes", "No"), ("No", "Yes"), ("No", "No")] {
            for (more, window) in sizes.iter().zip([usize::MAX >> 1, 700, 100_000]) {
                let mut keys = vec![
                    ("HeaderDigest", digest),
                    ("DataDigest", digest),
                    ("InitialR2T", r2t),
                    ("ImmediateData", immediate),
                ];
                keys.extend_from_slice(more);
                let mut s = Session::login(window, &keys);
                // The first command of a session is told of power on.
                s.io(1, true, 3, &[4096, 4096]);
                assert_eq!(s.status().status, 2);
                for (i, pieces) in [&[512][..], &[100, 1, 923], &[4096, 4096], &[65024]].iter().enumerate() {
                    let len = pieces.iter().map(|&n| usize::from(n)).sum();
                    let data = pattern(len, i as u32);
                    s.rig.scatter(DATA, pieces, &data);
                    s.io(1, true, 3, pieces);
                    let r = s.status();
                    assert_eq!(
                        (r.op_code, r.status, r.response_flags),
                        (CqOpcode::SCSI_RSP, 0, 0),
                        "{keys:?}"
                    );
                    s.rig.scatter(DATA, pieces, &vec![0; len]);
                    s.io(2, false, 3, pieces);
                    let r = s.status();
                    assert_eq!((r.status, r.response_flags & 6), (0, 0), "{keys:?}");
                    assert!(s.rig.gather(DATA, pieces) == data, "{keys:?}");
                }
                assert_eq!(s.rig.take_reports().len(), 1, "only the UPDATE");
                let c = s.server.counters();
                assert_eq!(
                    (c.rejects, c.transfer_violations, c.stray_data_out, c.ignored_cmd_sn),
                    (0, 0, 0, 0)
                );
            }
        }
    }
}

#[test]
fn a_check_condition_a_residual_and_a_logout() {
    let mut s = Session::login(1 << 16, &[]);
    // The first command of a session is told of power on; beyond the end of the disk is told after that.
    for lba in [255, 255] {
        let mut wqe = s.rig.command(1, false, DATA, &[512]);
        let mut cdb = [0; 16];
        (cdb[0], cdb[2], cdb[8]) = (0x28, lba, 1);
        wqe.cdb = Cdb::from_wire(cdb);
        wqe.lun = Lun::from_wire([0; 8]);
        wqe.cmd_sn = hsi::U32::new(s.cmd_sn);
        s.cmd_sn += 1;
        s.rig.post(wqe);
        s.pump();
    }
    for _ in 0..2 {
        let r = s.status();
        assert_eq!(
            (r.op_code, r.status, r.response_flags, r.residual_count.get()),
            (CqOpcode::SCSI_RSP, 2, 2, 512)
        );
        let len = r.data_length.get() as usize;
        let sense = s.rig.rq_buffer(len);
        assert_eq!((usize::from(sense[1]) + 2, sense[2] & 0x7e), (len, 0x70));
    }
    let mut w = LogoutRequest::default();
    w.op_code = SqOpcode::LOGOUT;
    w.itt = Itt::new(4, TaskType::MPATH);
    w.cmd_sn = hsi::U32::new(s.cmd_sn);
    s.rig.post(w);
    s.pump();
    s.rig.reap_opcode(CqOpcode::LOGOUT_RSP);
    assert!(s.server.should_close(s.conn));
}
