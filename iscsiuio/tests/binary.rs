//! The binary against a driver's export on a socket, as a user starts it.
#![allow(clippy::unwrap_used, reason = "scripts of tests are not test functions to clippy")]
// A process of its own runs in real time: the test waits for it, with deadlines.
#![allow(clippy::disallowed_methods)]

mod rig;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bus::mem::View;
use bus::uio::socket::Exporter;
use bus::uio::{
    BUFFERS_BYTES, EventCount, FromHelper, PathHandle, PathReq, PathUpdate, RING_BYTES, STATUS_BYTES,
    ToHelper, UioMaps,
};
use iscsiuio::ipc;
use os::event::Event;
use os::net::Received;
use os::shm::{Mapping, memfd};
use os::unix::{Channel, ChannelListener};
use rig::*;
use smoltcp::wire::ArpOperation;

/// Nothing that is waited for takes longer, or the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

struct Driver {
    channel: Channel,
    exporter: Exporter,
    card: Option<(Card, Event)>,
    sent: Vec<Sent>,
    updates: Vec<PathUpdate>,
    hellos: u32,
    closes: u32,
    generation: u32,
    gone: bool,
}

impl Driver {
    fn accept(listener: &ChannelListener) -> Self {
        let end = Instant::now() + PATIENCE;
        let channel = loop {
            if let Some(c) = listener.accept().unwrap() {
                break c;
            }
            assert!(Instant::now() < end, "the helper does not connect");
            std::thread::sleep(Duration::from_millis(2));
        };
        Self {
            channel,
            exporter: Exporter::default(),
            card: None,
            sent: Vec::new(),
            updates: Vec::new(),
            hellos: 0,
            closes: 0,
            generation: 0,
            gone: false,
        }
    }

    fn pump(&mut self) {
        let (mut bytes, mut fds, mut messages) = ([0; 4096], Vec::new(), Vec::new());
        match self.channel.recv(&mut bytes, &mut fds).unwrap() {
            Received::Bytes(n) => self.exporter.received(&bytes[..n], fds, &mut messages).unwrap(),
            Received::Nothing => {}
            Received::Fin => self.gone = true,
        }
        for m in messages {
            match m {
                FromHelper::Hello => {
                    self.hellos += 1;
                    self.exporter.say(&ToHelper::IfUp { mac: MAC, mtu: 1500 }).unwrap();
                }
                FromHelper::Open => self.open(),
                FromHelper::Close { .. } => self.closes += 1,
                FromHelper::PathUpdate(u) => self.updates.push(u),
                FromHelper::Write { at, value, .. } => {
                    let (card, event) = self.card.as_mut().expect("open");
                    card.write(at, value, bus::Instant::ZERO, &mut self.sent);
                    event.signal();
                }
            }
        }
        self.exporter.outbox.flush(&self.channel).unwrap();
    }

    /// Opened is written by hand, as the memory comes from here and not from a slot.
    fn open(&mut self) {
        self.exporter.outbox.flush(&self.channel).unwrap();
        self.generation += 1;
        let mut body = self.generation.to_le_bytes().to_vec();
        let mut fds: Vec<OwnedFd> = Vec::new();
        let mut view = |bytes: usize| {
            let fd = memfd("ring", bytes as u64).unwrap();
            let mapping = Rc::new(Mapping::new(fd.as_fd(), 0, bytes as u64, true).unwrap());
            body.extend(0_u64.to_le_bytes());
            body.extend((bytes as u32).to_le_bytes());
            fds.push(fd);
            View::mapped(&mapping, 0..bytes)
        };
        let (status, ring, buffers) = (view(STATUS_BYTES), view(RING_BYTES), view(BUFFERS_BYTES));
        body.extend(0_u16.to_le_bytes());
        let event = Event::new().unwrap();
        fds.push(event.as_fd().try_clone_to_owned().unwrap());
        let events = EventCount::default();
        let (generation, registers) = (self.generation, Vec::new());
        self.card =
            Some((Card::over(UioMaps { generation, status, ring, buffers, registers, events }), event));
        let mut message = (body.len() as u32).to_le_bytes().to_vec();
        message.extend([4, 4, 0, 0]);
        message.extend(body);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        assert_eq!(self.channel.send(&message, &fds).unwrap(), message.len());
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < end, "no {what}: {:?}", self.sent);
            std::thread::sleep(Duration::from_millis(1));
            self.pump();
        }
    }

    fn deliver(&mut self, frame: &[u8]) {
        let (card, event) = self.card.as_mut().expect("open");
        assert!(card.deliver(frame, None));
        event.signal();
    }

    fn announced(&self) -> bool {
        self.sent.iter().any(|s| arp_of(&s.bytes).is_some_and(|a| a.1 == OURS && a.2 == OURS))
    }
}

fn start(socket: &Path, name: &str, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_iscsiuio"))
        .arg("--driver")
        .arg(socket)
        .args(["-f", "-d", "4", "--ipc", name])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn stop(mut child: Child) -> (Option<i32>, String, String) {
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let code = child.wait().unwrap().code();
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (code, out, err)
}

/// The three words of an answer.
fn ask(name: &str, request: &[u8], mut meanwhile: impl FnMut()) -> Option<[u32; 3]> {
    let mut s = os::local::connect(name).unwrap();
    s.write_all(request).unwrap();
    s.set_nonblocking(true).unwrap();
    let (mut got, end) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        let mut b = [0; 64];
        match s.read(&mut b) {
            Ok(0) => break,
            Ok(n) => got.extend_from_slice(&b[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < end, "no answer");
                meanwhile();
                std::thread::sleep(Duration::from_millis(1));
            }
            // What was sent and not read makes a refusal a reset.
            Err(_) => break,
        }
    }
    (got.len() == 12).then(|| [0, 4, 8].map(|at| u32::from_ne_bytes(got[at..at + 4].try_into().unwrap())))
}

fn get_iface() -> Vec<u8> {
    let mut b = vec![0; ipc::GET_IFACE_BYTES];
    b[..4].copy_from_slice(&1_u32.to_ne_bytes());
    b[4..8].copy_from_slice(&(ipc::IFACE_REC as u32).to_ne_bytes());
    b[8 + 104..][..11].copy_from_slice(b"10.0.0.3/24");
    b
}

#[test]
fn it_resolves_answers_reconnects_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("uio");
    let name = format!("iscsiuio-test-{}", std::process::id());
    let listener = ChannelListener::bind(&socket).unwrap();
    let child = start(&socket, &name, &[]);
    let mut d = Driver::accept(&listener);
    d.until("hello", |d| d.hellos == 1);
    // Nobody has named an interface yet.
    assert_eq!(ask(&name, &get_iface(), || d.pump()), Some([1, 5, 0]));
    d.until("announcement", Driver::announced);
    assert_eq!(ask(&name, &get_iface(), || d.pump()), Some([1, 4, 0]));
    let req = PathReq { handle: PathHandle(5), dst: HOST.into(), vlan: 0, pmtu: 1500 };
    d.exporter.say(&ToHelper::PathReq(req)).unwrap();
    d.until("question", |d| d.sent.iter().any(|s| arp_of(&s.bytes).is_some_and(|a| a.2 == HOST)));
    d.deliver(&arp(ArpOperation::Reply, (PEER, HOST), (MAC, OURS), MAC));
    d.until("path", |d| !d.updates.is_empty());
    assert_eq!((d.updates[0].mac, d.updates[0].handle), (PEER, PathHandle(5)));
    // Nonsense does not disturb it, and neither does a driver that goes.
    let too_long = [1_u32.to_ne_bytes(), 20_000_u32.to_ne_bytes()].concat();
    assert_eq!(ask(&name, &too_long, || ()), None);
    drop(d);
    let mut d = Driver::accept(&listener);
    d.until("announcement after the driver's restart", Driver::announced);
    let (code, out, err) = stop(child);
    d.until("close", |d| d.closes == 1);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("INFO Using IP address: 10.0.0.3") && out.contains("INFO terminating"), "{out}");
    assert!(err.contains("ERR  lost the driver") && err.contains("payload length too large"), "{err}");
}

#[test]
fn readiness_is_told_and_a_name_that_is_taken_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let manager = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = format!("iscsiuio-test-name-{}", std::process::id());
    let socket = dir.path().join("uio");
    let pid = dir.path().join("pid");
    let child = Command::new(env!("CARGO_BIN_EXE_iscsiuio"))
        .args(["--driver", socket.to_str().unwrap(), "--ipc", &name, "-p", pid.to_str().unwrap()])
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut b = [0; 64];
    let n = manager.recv(&mut b).unwrap();
    assert!(b[..n].starts_with(b"READY=1\n"));
    assert_eq!(std::fs::read_to_string(&pid).unwrap(), format!("{}\n", child.id()));
    let second = start(&socket, &name, &[]).wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("is in use: stop the other iscsiuio"));
    let (code, out, _) = stop(child);
    assert_eq!((code, out.contains("no driver at"), pid.exists()), (Some(0), true, false));
    let bad = start(&socket, &name, &["--iface", "ip=10.0.0.3/24,gw=10.9.0.1"]).wait_with_output().unwrap();
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("gateway 10.9.0.1 is not in the network"));
}

/// A field of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn roots_rights_are_given_up_for_good() {
    let start = |user: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iscsiuio"));
        command
            .args(["--driver", "/nowhere/uio", "--user", user, "--ipc"])
            .arg(format!("iscsiuio-{}", std::process::id()));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let out = start("nobody-of-that-name").wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && err.contains("there is no user nobody-of-that-name"), "{err}");

    if status(std::process::id(), "Uid") != "0 0 0 0" {
        let out = start("root").wait_with_output().unwrap();
        assert!(!out.status.success(), "only root can become somebody");
        let _ = writeln!(std::io::stderr(), "SKIPPED: giving up the rights of root needs root");
        return;
    }
    let mut child = start("nobody");
    let (pid, end) = (child.id(), Instant::now() + PATIENCE);
    while status(pid, "Uid").starts_with("0 ") {
        assert!(Instant::now() < end, "it stays root");
        std::thread::sleep(Duration::from_millis(2));
    }
    let user = status(pid, "Uid");
    let ids: Vec<&str> = user.split(' ').collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "saved ids too: {user}");
    assert!(!status(pid, "Groups").split(' ').any(|g| g == "0"), "no group of root");
    let none = |field: &str| u64::from_str_radix(&status(pid, field), 16).unwrap() == 0;
    assert!(none("CapEff") && none("CapPrm") && none("CapInh") && none("CapAmb"));
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    child.kill().unwrap();
    child.wait().unwrap();
}
