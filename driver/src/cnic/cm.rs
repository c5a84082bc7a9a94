//! KWQEs of the TCP connection manager (BNX2I-CNIC 3.6).

use core::net::{IpAddr, SocketAddr};

use hsi::bcm5709::limits as lim;
use hsi::kernel::kwq::Kwqe;
use hsi::kernel::l4::{
    L4_FLAGS, L4_FLAGS_LINKED, L4_KWQ_CONNECT_REQ1_IP_V6, L4_KWQ_OFFLOAD_PG_VLAN_TAGGING, L4KwqCloseReq,
    L4KwqConnectReq1, L4KwqConnectReq2, L4KwqConnectReq3, L4KwqOffloadPg, L4KwqResetReq, L4KwqUpdatePg,
    L4KwqUpload, L4KwqeOpcode,
};
use hsi::{U16, U32, View};

use super::kq::MAX_BATCH;

/// Path group towards a next hop.
pub(crate) fn offload_pg(cid: u16, sa: [u8; 6], da: [u8; 6], vlan: u16) -> Kwqe {
    let mut pg = L4KwqOffloadPg::default();
    pg.op_code = L4KwqeOpcode::OFFLOAD_PG;
    pg.flags = L4_FLAGS;
    pg.l2hdr_nbytes = 14;
    // The real driver says IPv4 for IPv6 too; the chip goes by the connect request.
    pg.etype = U16::new(0x0800);
    pg.ipid_start = U16::new(lim::DEF_IPID_START);
    pg.host_opaque = U32::new(u32::from(cid));
    pg.set_da(da);
    pg.set_sa(sa);
    if vlan != 0 {
        pg.pg_flags = L4_KWQ_OFFLOAD_PG_VLAN_TAGGING;
        pg.l2hdr_nbytes = 18;
        pg.vlan_tag = U16::new(vlan);
    }
    pg.into_element()
}

/// New next hop of a path group.
pub(crate) fn update_pg(cid: u16, pg_cid: u32, da: [u8; 6]) -> Kwqe {
    let mut pg = L4KwqUpdatePg::default();
    pg.opcode = L4KwqeOpcode::UPDATE_PG;
    pg.flags = L4_FLAGS;
    pg.pg_cid = U32::new(pg_cid);
    pg.pg_host_opaque = U32::new(u32::from(cid));
    pg.set_da(da);
    pg.into_element()
}

/// Frees a path group.
pub(crate) fn upload_pg(pg_cid: u32) -> Kwqe {
    let mut upload = L4KwqUpload::default();
    upload.opcode = L4KwqeOpcode::UPLOAD_PG;
    upload.flags = L4_FLAGS;
    upload.cid = U32::new(pg_cid);
    upload.into_element()
}

/// Orderly close.
pub(crate) fn close(context: u32) -> Kwqe {
    let mut req = L4KwqCloseReq::default();
    req.op_code = L4KwqeOpcode::CLOSE;
    req.flags = L4_FLAGS;
    req.cid = U32::new(context);
    req.into_element()
}

/// Abortive close.
pub(crate) fn reset(context: u32) -> Kwqe {
    let mut req = L4KwqResetReq::default();
    req.op_code = L4KwqeOpcode::RESET;
    req.flags = L4_FLAGS;
    req.cid = U32::new(context);
    req.into_element()
}

/// What a connect needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connect {
    pub(crate) context: u32,
    pub(crate) pg_cid: u32,
    pub(crate) src: IpAddr,
    pub(crate) src_port: u16,
    pub(crate) dst: SocketAddr,
    pub(crate) pmtu: u16,
}

/// CONNECT1, CONNECT2 for IPv6, CONNECT3. Returns the batch and its length; `None` when the address families
/// differ.
pub(crate) fn connect(c: &Connect) -> Option<([Kwqe; MAX_BATCH], usize)> {
    let mut one = L4KwqConnectReq1::default();
    one.op_code = L4KwqeOpcode::CONNECT1;
    one.flags = L4_FLAGS_LINKED;
    one.cid = U32::new(c.context);
    one.pg_cid = U32::new(c.pg_cid);
    one.src_port = U16::new(c.src_port);
    one.dst_port = U16::new(c.dst.port());
    let mut three = L4KwqConnectReq3::default();
    three.op_code = L4KwqeOpcode::CONNECT3;
    three.flags = L4_FLAGS;
    three.ka_timeout = U32::new(lim::DEF_KA_TIMEOUT);
    three.ka_interval = U32::new(lim::DEF_KA_INTERVAL);
    three.ka_max_probe_count = lim::DEF_KA_MAX_PROBE_COUNT as u8;
    three.tos = lim::DEF_TOS as u8;
    three.ttl = lim::DEF_TTL as u8;
    three.snd_seq_scale = lim::DEF_SND_SEQ_SCALE as u8;
    three.pmtu = U16::new(c.pmtu);
    three.rcv_buf = U32::new(lim::CM_BUFFER_BYTES);
    three.snd_buf = U32::new(lim::CM_BUFFER_BYTES);
    three.seed = U32::new(lim::DEF_SEED);
    let headers = match (c.src, c.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            one.src_ip = U32::new(src.to_bits());
            one.dst_ip = U32::new(dst.to_bits());
            40
        }
        (IpAddr::V6(_), IpAddr::V6(_)) => 60,
        _ => return None,
    };
    three.mss = U16::new(c.pmtu.saturating_sub(headers));
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (c.src, c.dst.ip()) else {
        return Some(([one.into_element(), three.into_element(), Kwqe::default()], 2));
    };
    let word = |a: core::net::Ipv6Addr, i: u32| U32::new((a.to_bits() >> (96 - 32 * i)) as u32);
    one.conn_flags = L4_KWQ_CONNECT_REQ1_IP_V6;
    (one.src_ip, one.dst_ip) = (word(src, 0), word(dst, 0));
    let mut two = L4KwqConnectReq2::default();
    two.op_code = L4KwqeOpcode::CONNECT2;
    two.flags = L4_FLAGS_LINKED;
    two.src_ip_v6_2 = word(src, 1);
    two.src_ip_v6_3 = word(src, 2);
    two.src_ip_v6_4 = word(src, 3);
    two.dst_ip_v6_2 = word(dst, 1);
    two.dst_ip_v6_3 = word(dst, 2);
    two.dst_ip_v6_4 = word(dst, 3);
    Some(([one.into_element(), two.into_element(), three.into_element()], 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(src: &str, dst: &str) -> Option<([Kwqe; MAX_BATCH], usize)> {
        connect(&Connect {
            context: 0x8000,
            pg_cid: 7,
            src: src.parse().unwrap(),
            src_port: 60001,
            dst: dst.parse().unwrap(),
            pmtu: 1500,
        })
    }

    #[test]
    fn connect_ipv4_is_two_linked_kwqes() {
        let (batch, n) = with("10.0.0.1", "10.0.0.2:3260").unwrap();
        assert_eq!(n, 2);
        assert_eq!(batch[0].kwqe_op_flag.get(), 0xc032_0000, "BNX2I-CNIC B.6");
        assert!(!batch[1].linked_with_next());
        let one: &L4KwqConnectReq1 = batch[0].view();
        assert_eq!((one.src_ip.get(), one.dst_port.get()), (0x0a00_0001, 3260));
        assert_eq!(batch[1].view::<L4KwqConnectReq3>().mss.get(), 1460);
    }

    #[test]
    fn connect_ipv6_carries_the_rest_of_the_addresses() {
        let (batch, n) = with("fd00::1", "[fd00::2]:3260").unwrap();
        assert_eq!(n, 3);
        assert!(batch[0].linked_with_next() && batch[1].linked_with_next() && !batch[2].linked_with_next());
        assert_eq!(batch[0].view::<L4KwqConnectReq1>().src_ip.get(), 0xfd00_0000);
        assert_eq!(batch[1].view::<L4KwqConnectReq2>().dst_ip_v6_4.get(), 2);
        assert_eq!(batch[2].view::<L4KwqConnectReq3>().mss.get(), 1440);
        assert!(with("10.0.0.1", "[fd00::2]:3260").is_none());
    }
}
