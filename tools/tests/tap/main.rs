//! Card, driver and helper on a TAP device; tgtd, dnsmasq and tshark in the kernel's network behind it.
//!
//! Each test has two network namespaces of its own: the card's, with the TAP device on a bridge, and the far
//! one, joined by a cable. Needs root.
#![allow(clippy::disallowed_methods, reason = "real peers live in real time; nothing asserts on the clock")]

#[path = "../common/mod.rs"]
mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::{IQN, cnic, text_of};
use tests::peer;
use tests::tgtd::Tgtd;

/// The TAP device that the card is plugged into.
const TAP: &str = "cnic0";
const PORT: u16 = 3260;
const SIZE: u64 = 32 << 20;
const LIMIT: Duration = Duration::from_secs(10);

/// How the TAP device and the cable to the far namespace are joined.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Switch {
    /// A bridge.
    Plain,
    /// The far end is an access port of this VLAN.
    Vlan(u16),
}

/// Two namespaces and everything that runs in them. All of it goes when dropped.
struct Net {
    near: String,
    far: String,
    processes: Vec<Child>,
}

impl Net {
    /// `None` where a peer is missing or the test may not make namespaces.
    fn new(mtu: u16, switch: Switch) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        peer("ip", "iproute2")?;
        if !tests::is_root("network namespaces") {
            return None;
        }
        let unique = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut net =
            Self { near: format!("cnic-n{unique}"), far: format!("cnic-f{unique}"), processes: Vec::new() };
        for name in [&net.near, &net.far] {
            sh("", &format!("ip netns add {name}"));
            sh(name, "ip link set lo up");
        }
        let (near, far) = (net.near.clone(), net.far.clone());
        sh(&near, &format!("ip link add va mtu {mtu} type veth peer name vb netns {far} mtu {mtu}"));
        let taps: &[(&str, &str)] = match switch {
            Switch::Plain => &[(TAP, "br0"), ("va", "br0")],
            Switch::Vlan(_) => &[(TAP, "br0"), ("trunk", "br0"), ("access", "br1"), ("va", "br1")],
        };
        for (device, bridge) in taps {
            let _ = Command::new("ip")
                .args(["netns", "exec", &near, "ip", "link", "add", bridge, "type", "bridge"])
                .stderr(Stdio::null())
                .status();
            if *device != "va" {
                sh(&near, &format!("ip tuntap add dev {device} mode tap"));
            }
            sh(&near, &format!("ip link set {device} mtu {mtu} master {bridge} up"));
            sh(&near, &format!("ip link set {bridge} mtu {mtu} up"));
        }
        sh(
            &far,
            "ip addr add 10.77.0.2/24 dev vb && ip addr add fd77::2/64 dev vb nodad && ip link set vb up",
        );
        if let Switch::Vlan(vid) = switch {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tap/vlan_port.py");
            let python = peer("python3", "python3")?;
            net.start(
                &near,
                Command::new(python).arg(script).args(["trunk", "access", &vid.to_string()]),
                "READY",
            );
        }
        Some(net)
    }

    /// Runs a command in a namespace until the test ends; waits for a line that contains `ready`.
    fn start(&mut self, netns: &str, command: &Command, ready: &str) -> u32 {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", netns]).arg(command.get_program()).args(command.get_args());
        let mut child = inside
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip runs");
        let out: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("piped"));
        let err: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("piped"));
        let (tell, told) = std::sync::mpsc::channel();
        for stream in [out, err] {
            let (tell, ready) = (tell.clone(), ready.to_owned());
            // Reads on, so that the child never blocks on a full pipe.
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if line.contains(&ready) {
                        let _ = tell.send(());
                    }
                }
            });
        }
        let name = command.get_program().to_owned();
        told.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("{name:?} did not say {ready:?}"));
        let id = child.id();
        self.processes.push(child);
        id
    }

    /// tgtd in the far namespace, with a file as LUN 1.
    fn tgtd(&self, dir: &Path) -> Option<Tgtd> {
        let mut tgtd = Tgtd::start_in(&self.far, ([10, 77, 0, 2], PORT).into())?;
        let file = dir.join("disk");
        std::fs::File::create(&file).and_then(|f| f.set_len(SIZE)).expect("a sparse file");
        tgtd.add(IQN, &file, None, None);
        Some(tgtd)
    }

    /// `cnic` in the card's namespace.
    fn cnic(&self, args: &[&str]) -> (i32, String, String) {
        let out = self.command().args(args).output().expect("cnic runs");
        text_of(&out)
    }

    fn command(&self) -> Command {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", &self.near]).arg(cnic().get_program()).stdin(Stdio::null());
        c
    }

    /// Verified I/O through the TAP device, with what the card's own tee recorded and what tshark saw on the
    /// device.
    fn verify(&mut self, dir: &Path, host: &str, options: &[&str]) -> [PathBuf; 2] {
        let (tee, seen) = (dir.join("tee.pcapng"), dir.join("seen.pcapng"));
        let tshark = peer("tshark", "tshark").expect("asked for before");
        let near = self.near.clone();
        let capture = self.start(
            &near,
            Command::new(tshark).args(["-q", "-B", "64", "-i", TAP, "-w"]).arg(&seen),
            "Capturing on",
        );
        let url = format!("iscsi://{host}:{PORT}/{IQN}/1");
        let wire = format!("tap:{TAP}");
        let tee_arg = tee.to_str().expect("UTF-8");
        // Small requests, few at once: a frame then seldom holds several PDUs, of which the dissector lists
        // one.
        let bytes = if options.contains(&"--mtu") { "64k" } else { "4k" };
        let mut args = vec!["io", &url, "verify", "--force", "--size", "2M", "--iodepth", "2", "--bs", bytes];
        args.extend(["--json", "--wire", &wire, "--pcap", tee_arg]);
        args.extend(options);
        let (code, out, err) = self.cnic(&args);
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.contains("\"verified\":true"), "{out}");
        sh("", &format!("kill -INT {capture}"));
        let child = self.processes.iter_mut().find(|c| c.id() == capture).expect("it runs");
        let start = Instant::now();
        while child.try_wait().expect("wait works").is_none() {
            assert!(start.elapsed() < LIMIT, "tshark does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        [tee, seen]
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for child in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// A shell command in a namespace; the test's own if empty.
#[track_caller]
fn sh(netns: &str, line: &str) {
    let mut c = Command::new(if netns.is_empty() { "sh" } else { "ip" });
    if !netns.is_empty() {
        c.args(["netns", "exec", netns, "sh"]);
    }
    let out = c.args(["-c", line]).output().expect("a shell");
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Numbers of the frames that match a display filter.
fn frames(file: &Path, filter: &str) -> Vec<String> {
    let mut c = Command::new(peer("tshark", "tshark").expect("asked for before"));
    for check in ["tcp.check_checksum", "ip.check_checksum", "udp.check_checksum"] {
        c.args(["-o", &format!("{check}:TRUE")]);
    }
    // Or a retransmission ends the decoding of its stream.
    c.args(["-o", "tcp.reassemble_out_of_order:TRUE"]);
    let out = c.args(["-2", "-r"]).arg(file).args(["-Y", filter]).output().expect("tshark runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect()
}

/// Both files are iSCSI, with commands in more than `least` frames, without malformed PDUs and bad checksums.
#[track_caller]
fn decode(files: &[PathBuf; 2], least: usize) {
    for file in files {
        let commands = frames(file, "iscsi.opcode == 0x01").len();
        assert!(commands > least, "{}: {commands} SCSI commands", file.display());
        let judged = frames(file, "tcp.checksum.status == \"Good\"").len();
        assert!(judged > commands, "{}: checksums are looked at", file.display());
        // Linux sends a sum of zero as 0xffff over TCP, too, which adds up to the same; tshark would have it
        // zero.
        let bad = "_ws.malformed || ip.checksum.status == \"Bad\" || udp.checksum.status == \"Bad\" \
            || tcp.checksum.status == \"Bad\" && tcp.checksum != 0xffff";
        let bad = frames(file, bad);
        assert!(bad.is_empty(), "{}: {bad:#?}", file.display());
    }
}

/// Namespaces with tgtd at the far end, a directory, and the certainty that tshark is there.
fn net(mtu: u16, switch: Switch) -> Option<(Net, Tgtd, tempfile::TempDir)> {
    peer("tshark", "tshark")?;
    let dir = tempfile::tempdir().expect("a directory");
    let net = Net::new(mtu, switch)?;
    let tgtd = net.tgtd(dir.path())?;
    Some((net, tgtd, dir))
}

#[test]
fn static_ipv4() {
    let Some((mut net, _tgtd, dir)) = net(1500, Switch::Plain) else { return };
    let files = net.verify(dir.path(), "10.77.0.2", &["--iface", "ip=10.77.0.3/24"]);
    decode(&files, 100);
    for file in &files {
        assert!(!frames(file, "arp.opcode == 1 && arp.dst.proto_ipv4 == 10.77.0.2").is_empty(), "ARP");
        assert!(!frames(file, "arp.opcode == 2 && arp.src.proto_ipv4 == 10.77.0.2").is_empty(), "its answer");
    }
}

#[test]
fn dhcp_from_a_real_server() {
    let Some(dnsmasq) = peer("dnsmasq", "dnsmasq-base") else { return };
    let Some((mut net, _tgtd, dir)) = net(1500, Switch::Plain) else { return };
    let far = net.far.clone();
    let mut server = Command::new(dnsmasq);
    server.args(["--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=vb", "--bind-interfaces"]);
    server.args(["--dhcp-range=10.77.0.100,10.77.0.110,255.255.255.0,2m", "--leasefile-ro", "--user=root"]);
    net.start(&far, &server, "DHCP, IP range");
    let files = net.verify(dir.path(), "10.77.0.2", &["--iface", "dhcp"]);
    decode(&files, 100);
    for kind in 1..=3 {
        assert!(!frames(&files[1], &format!("dhcp.option.dhcp == {kind}")).is_empty(), "message {kind}");
    }
    assert!(!frames(&files[1], "iscsi && ip.src >= 10.77.0.100 && ip.src <= 10.77.0.110").is_empty());
}

#[test]
fn vlan() {
    let Some((mut net, _tgtd, dir)) = net(1500, Switch::Vlan(5)) else { return };
    let files = net.verify(dir.path(), "10.77.0.2", &["--iface", "ip=10.77.0.3/24,vlan=5"]);
    decode(&files, 100);
    for file in &files {
        assert!(!frames(file, "iscsi && vlan.id == 5").is_empty());
        assert!(frames(file, "iscsi && !vlan").is_empty(), "no untagged PDU");
    }
}

#[test]
fn ipv6() {
    let Some((mut net, _tgtd, dir)) = net(1500, Switch::Plain) else { return };
    let files = net.verify(dir.path(), "[fd77::2]", &["--iface", "ip=fd77::3/64"]);
    decode(&files, 100);
    for file in &files {
        assert!(!frames(file, "iscsi && ipv6").is_empty());
        assert!(!frames(file, "icmpv6.type == 135 && icmpv6.nd.ns.target_address == fd77::2").is_empty());
    }
}

#[test]
fn jumbo_frames() {
    let Some((mut net, _tgtd, dir)) = net(9000, Switch::Plain) else { return };
    let files = net.verify(dir.path(), "10.77.0.2", &["--iface", "ip=10.77.0.3/24", "--mtu", "9000"]);
    decode(&files, 30);
    for file in &files {
        assert!(!frames(file, "tcp && eth.src == 00:10:18:aa:bb:cd && frame.len > 8000").is_empty(), "sent");
        assert!(
            !frames(file, "tcp && eth.dst == 00:10:18:aa:bb:cd && frame.len > 8000").is_empty(),
            "received"
        );
    }
}

#[test]
fn card_driver_and_helper_are_three_processes() {
    let Some((mut net, _tgtd, dir)) = net(1500, Switch::Plain) else { return };
    let helper = Path::new(env!("CARGO_BIN_EXE_cnic")).with_file_name("iscsiuio");
    assert!(helper.is_file(), "build it: cargo build -p iscsiuio");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let (chip, uio, log) = (path("chip"), path("uio"), path("tee.pcapng"));
    let near = net.near.clone();
    let mut card = Command::new(env!("CARGO_BIN_EXE_cnic"));
    card.args(["chip", "--socket", &chip, "--wire", &format!("tap:{TAP}"), "--pcap", &log]);
    net.start(&near, &card, "listening on");
    let mut iscsiuio = Command::new(helper);
    iscsiuio.args(["--driver", &uio, "--iface", "ip=10.77.0.3/24", "--ipc", &uio]);
    net.start(&near, &iscsiuio, "no driver at");
    // Neither driver nor helper is where the card's network is, for all they know.
    let url = format!("iscsi://10.77.0.2:{PORT}/{IQN}/1");
    let out = cnic()
        .args([
            "io",
            &url,
            "verify",
            "--force",
            "--size",
            "8M",
            "--json",
            "--card",
            &chip,
            "--export-uio",
            &uio,
        ])
        .output()
        .expect("cnic runs");
    let (code, out, err) = text_of(&out);
    assert!(code == 0 && out.contains("\"verified\":true"), "{code}: {out}{err}");
}

#[test]
fn nobody_answers() {
    let Some((net, _tgtd, _dir)) = net(1500, Switch::Plain) else { return };
    let (url, wire) = (format!("iscsi://10.77.0.99:{PORT}/{IQN}/1"), format!("tap:{TAP}"));
    let (code, _, err) = net.cnic(&["info", &url, "--wire", &wire, "--iface", "ip=10.77.0.3/24"]);
    assert!(code == 8 && err.contains("10.77.0.99") && err.contains("nobody answers"), "{code}: {err}");
    let (code, _, err) = net.cnic(&["info", &url, "--wire", "tap:nosuch/device", "--iface", "dhcp"]);
    assert!(code == 4 && err.contains("nosuch/device"), "{code}: {err}");
    let (code, _, err) = net.cnic(&["info", &url, "--wire", &wire]);
    assert!(code == 7 && err.contains("--iface"), "{code}: {err}");
}
