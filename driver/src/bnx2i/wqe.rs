//! WQEs of every type (BNX2I-CNIC 5.2). Each is built from zero, so that no remnant of an earlier lap is ever
//! posted.

use hsi::bcm5709::limits::LOGIN_BUFFER_BYTES;
use hsi::iscsi::bits::{Cdb, Itt, Lun as WqeLun, TaskType};
use hsi::iscsi::sq as s;
use hsi::iscsi::sq::{RespBuffer, SqOpcode, Sqe};
use hsi::{U16, U32, View};
use iscsi::scsi::Lun;

use super::Bookmarks;

/// A SCSI command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command {
    pub(crate) itt: Itt,
    pub(crate) lun: Lun,
    pub(crate) cdb: [u8; 16],
    pub(crate) cmd_sn: u32,
    pub(crate) write: bool,
    /// Bytes; zero for no data.
    pub(crate) length: u32,
    pub(crate) bd_list: u64,
    pub(crate) num_bds: u8,
    pub(crate) bookmarks: Bookmarks,
}

/// Task attribute SIMPLE (SAM-5 8.6).
const SIMPLE: u8 = 1;

pub(crate) fn command(c: &Command) -> Sqe {
    let direction = match (c.write, c.length) {
        (_, 0) => 0,
        (true, _) => s::ISCSI_CMD_REQUEST_WRITE,
        (false, _) => s::ISCSI_CMD_REQUEST_READ,
    };
    let mut w = s::CmdRequest::default();
    w.op_attr = SIMPLE | direction;
    w.op_code = SqOpcode::SCSI_CMD;
    w.ud_buffer_offset = U16::new(c.bookmarks.ud.1);
    w.sd_buffer_offset = U16::new(c.bookmarks.sd.1);
    w.lun = WqeLun::from_wire(c.lun.0);
    w.itt = c.itt;
    w.total_data_transfer_length = U32::new(c.length);
    w.cmd_sn = U32::new(c.cmd_sn);
    w.cdb = Cdb::from_wire(c.cdb);
    w.num_bds = c.num_bds;
    w.ud_start_bd_index = c.bookmarks.ud.0;
    w.sd_start_bd_index = c.bookmarks.sd.0;
    w.set_bd_list_addr(c.bd_list);
    w.into_element()
}

/// Where a login or text request's payload and its answer lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Staged {
    pub(crate) request_list: u64,
    pub(crate) response_list: u64,
    pub(crate) length: u32,
}

fn response_buffer() -> U32 {
    RespBuffer { length: LOGIN_BUFFER_BYTES as u32, num_bds: 1 }.to_word()
}

fn be16(b: &[u8; 48], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn be32(b: &[u8; 48], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Login from its header (RFC 7143 11.12).
pub(crate) fn login(bhs: &[u8; 48], index: u16, cmd_sn: u32, staged: Staged) -> Sqe {
    let mut w = s::LoginRequest::default();
    w.version_max = bhs[2];
    w.version_min = bhs[3];
    w.op_attr = bhs[1];
    w.op_code = SqOpcode::LOGIN;
    w.data_length = U32::new(staged.length);
    // Raw, in network order, unlike everything else (5.2.2).
    w.tsih = U16::new(u16::from_le_bytes([bhs[14], bhs[15]]));
    w.itt = Itt::new(index, TaskType::MPATH);
    w.cid = U16::new(u16::from_le_bytes([bhs[20], bhs[21]]));
    w.cmd_sn = U32::new(cmd_sn);
    w.exp_stat_sn = U32::new(be32(bhs, 28));
    w.resp_buffer = response_buffer();
    w.flags = s::ISCSI_LOGIN_REQUEST_UPDATE_EXP_STAT_SN;
    w.num_bds = 1;
    w.set_isid([bhs[8], bhs[9], bhs[10], bhs[11], bhs[12], bhs[13]]);
    w.set_bd_list_addr(staged.request_list);
    w.set_resp_bd_list_addr(staged.response_list);
    w.into_element()
}

/// Text from its header (RFC 7143 11.10).
pub(crate) fn text(bhs: &[u8; 48], index: u16, cmd_sn: u32, staged: Staged) -> Sqe {
    let immediate = bhs[0] & 0x40 != 0;
    let mut w = s::TextRequest::default();
    w.op_attr = bhs[1];
    w.op_code = if immediate { SqOpcode::TEXT_IMMEDIATE } else { SqOpcode::TEXT };
    w.data_length = U32::new(staged.length);
    w.itt = Itt::new(index, TaskType::MPATH);
    w.ttt = U32::new(be32(bhs, 20));
    w.cmd_sn = U32::new(cmd_sn);
    w.resp_buffer = response_buffer();
    w.num_bds = 1;
    w.set_bd_list_addr(staged.request_list);
    w.set_resp_bd_list_addr(staged.response_list);
    w.into_element()
}

/// Logout from its header (RFC 7143 11.14). `dummy_list` is the BD list of requests without data.
pub(crate) fn logout(bhs: &[u8; 48], index: u16, cmd_sn: u32, dummy_list: u64) -> Sqe {
    let mut w = s::LogoutRequest::default();
    w.op_attr = bhs[1] | s::ISCSI_LOGOUT_REQUEST_ALWAYS_ONE;
    w.op_code = SqOpcode::LOGOUT;
    w.itt = Itt::new(index, TaskType::MPATH);
    w.cid = U16::new(be16(bhs, 20));
    w.cmd_sn = U32::new(cmd_sn);
    w.num_bds = 1;
    w.set_bd_list_addr(dummy_list);
    w.into_element()
}

/// A task management request. `referenced` is ITT and CmdSN of the task to abort.
pub(crate) fn tmf(
    function: u8,
    lun: Lun,
    index: u16,
    cmd_sn: u32,
    referenced: Option<(Itt, u32)>,
    dummy_list: u64,
) -> Sqe {
    let mut w = s::TmfRequest::default();
    w.op_attr = s::ISCSI_TMF_REQUEST_ALWAYS_ONE | function & s::ISCSI_TMF_REQUEST_FUNCTION;
    w.op_code = SqOpcode::TMF;
    w.lun = WqeLun::from_wire(lun.0);
    w.itt = Itt::new(index, TaskType::MPATH);
    w.ref_itt = U32::new(referenced.map_or(u32::MAX, |(itt, _)| u32::from(itt.raw())));
    w.cmd_sn = U32::new(cmd_sn);
    w.ref_cmd_sn = U32::new(referenced.map_or(0, |(_, sn)| sn));
    w.num_bds = 1;
    w.set_bd_list_addr(dummy_list);
    w.into_element()
}

/// A NOP-Out: a ping, or the answer to a target's NOP-In when `answer` has its LUN (raw bytes) and TTT.
pub(crate) fn nop_out(index: u16, cmd_sn: u32, answer: Option<([u8; 8], u32)>, dummy_list: u64) -> Sqe {
    let (lun, ttt) = answer.unwrap_or(([0; 8], u32::MAX));
    let mut w = s::NopOutRequest::default();
    w.op_attr = s::ISCSI_NOP_OUT_REQUEST_ALWAYS_ONE;
    w.op_code = SqOpcode::NOP_OUT_IMMEDIATE;
    w.lun = WqeLun::from_raw(lun);
    w.itt = Itt::new(index, TaskType::MPATH);
    w.ttt = U32::new(ttt);
    w.cmd_sn = U32::new(cmd_sn);
    w.flags = if answer.is_some() { s::ISCSI_NOP_OUT_REQUEST_LOCAL_COMPLETION } else { 0 };
    w.num_bds = 1;
    w.set_bd_list_addr(dummy_list);
    w.into_element()
}

/// Forget a task. `itt` has its type bits.
pub(crate) fn cleanup(itt: Itt) -> Sqe {
    let mut w = s::CleanupRequest::default();
    (w.op_code, w.itt) = (SqOpcode::CLEANUP_REQUEST, itt);
    w.into_element()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_attributes_follow_the_data() {
        let c = Command {
            itt: Itt::new(3, TaskType::WRITE),
            lun: Lun([0, 1, 0, 0, 0, 0, 0, 0]),
            cdb: [0x2a, 0, 0, 0, 0, 9, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
            cmd_sn: 77,
            write: true,
            length: 4096,
            bd_list: 0x1_0000_2000,
            num_bds: 2,
            bookmarks: Bookmarks { ud: (1, 5), sd: (0, 7) },
        };
        let w = command(&c);
        assert_eq!(w.sqe_byte[2..8], [0x21, 0x01, 7, 0, 5, 0], "SIMPLE | write, opcode, sd and ud offsets");
        assert_eq!(w.sqe_byte[8..12], [0, 0, 1, 0], "LUN as a word from big-endian");
        assert_eq!((w.itt().raw(), w.sqe_byte[32..36] == [0, 0, 0, 0x2a]), (0x4003, true));
        assert_eq!(w.sqe_byte[52..63], [0, 0x20, 0, 0, 1, 0, 0, 0, 2, 1, 0]);
        assert_eq!(command(&Command { write: false, ..c }).sqe_byte[2], 0x41);
        assert_eq!(command(&Command { length: 0, ..c }).sqe_byte[2], 0x01, "no data, no direction");
    }

    #[test]
    fn login_copies_isid_and_tsih_raw() {
        let mut bhs = [0; 48];
        (bhs[0], bhs[1]) = (0x43, 0x87);
        bhs[8..16].copy_from_slice(&[0, 2, 0x3d, 1, 2, 3, 0xab, 0xcd]);
        bhs[28..32].copy_from_slice(&9u32.to_be_bytes());
        let w = login(&bhs, 5, 1, Staged { request_list: 0x10, response_list: 0x20, length: 100 });
        let l: &s::LoginRequest = w.view();
        assert_eq!((l.isid(), w.sqe_byte[12..14].to_vec()), ([0, 2, 0x3d, 1, 2, 3], vec![0xab, 0xcd]));
        assert_eq!((l.exp_stat_sn.get(), l.resp_buffer.get()), (9, 1 << 24 | 8192));
        assert_eq!((w.sqe_byte[3], w.sqe_byte[2], w.itt().raw()), (0x43, 0x87, 0x8005));
        assert!(l.update_exp_stat_sn());
    }

    #[test]
    fn tmf_names_the_task_or_nobody() {
        let abort = tmf(1, Lun::default(), 2, 3, Some((Itt::new(9, TaskType::WRITE), 44)), 0);
        let t: &s::TmfRequest = abort.view();
        assert_eq!((t.ref_itt.get(), t.ref_cmd_sn.get(), t.op_attr), (0x4009, 44, 0x81));
        let reset = tmf(5, Lun::default(), 2, 3, None, 0);
        assert_eq!(reset.view::<s::TmfRequest>().ref_itt.get(), u32::MAX);
    }

    #[test]
    fn only_answers_to_the_target_complete_locally() {
        let ping = nop_out(1, 2, None, 0);
        let n: &s::NopOutRequest = ping.view();
        assert!(!n.local_completion() && n.ttt.get() == u32::MAX);
        let answer = nop_out(1, 2, Some(([1, 2, 3, 4, 5, 6, 7, 8], 0x77)), 0);
        let n: &s::NopOutRequest = answer.view();
        assert!(n.local_completion() && n.ttt.get() == 0x77 && n.lun.raw() == [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
