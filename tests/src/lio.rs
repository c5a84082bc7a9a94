//! The Linux kernel's own target (LIO) in a QEMU guest: started by the test with `tests/stock-driver/run`,
//! reached through ports of this machine's loopback. The guest has no device of ours; its kernel log is
//! judged when it ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::free_port;

/// Until a guest takes orders. It boots in 4 s on an idle machine.
const BOOT: Duration = Duration::from_secs(100);
/// For an order.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest life of a guest, in seconds.
const LIFE: u32 = 400;

/// A guest that is a target. It is killed when dropped; [`Lio::finish`] ends it in order.
pub struct Lio {
    guest: Child,
    portal: SocketAddr,
    orders: BufReader<TcpStream>,
    log: TempDir,
}

impl Lio {
    /// Boots a guest with kernel `bookworm` or `backports`, which may print what is in `lists` (of
    /// `tests/stock-driver`). `None` where `tests/stock-driver/setup` has not been run: then the test says
    /// that it is skipped.
    ///
    /// # Panics
    /// When the guest does not come up; under `CI=true` also when nothing is set up.
    #[must_use]
    pub fn start(kernel: &str, lists: &[&str]) -> Option<Self> {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("stock-driver");
        if !cache().join(format!("kernel-{kernel}/image")).is_file() {
            assert!(std::env::var_os("CI").is_none(), "no guest: run tests/stock-driver/setup");
            let _ = writeln!(std::io::stderr(), "SKIPPED: no guest (tests/stock-driver/setup)");
            return None;
        }
        let log = TempDir::new().expect("a temporary directory");
        let out = File::create(log.path().join("run")).expect("a file");
        let (portal, control) = (free_port(), free_port());
        let mut guest = Command::new(tools.join("run"))
            .args(["--no-device", "--smp", "1", "--kernel", kernel, "--timeout", &LIFE.to_string()])
            .args(["--forward", &format!("{portal}:3260"), "--forward", &format!("{control}:3261")])
            .arg("--script")
            .arg(tools.join("guest/lio.sh"))
            .args(lists.iter().flat_map(|list| ["--messages".into(), tools.join(list)]))
            .arg("--log")
            .arg(log.path())
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a second descriptor"))
            .stderr(out)
            .spawn()
            .expect("bash is there");
        let start = Instant::now();
        let orders = loop {
            // QEMU accepts for the guest, and hangs up again while nobody listens in there.
            if let Some(orders) = greet((Ipv4Addr::LOCALHOST, control).into()) {
                break orders;
            }
            let ended = guest.try_wait().expect("a child of ours");
            assert!(ended.is_none() && start.elapsed() < BOOT, "no guest ({ended:?}):\n{}", said(&log));
            std::thread::sleep(Duration::from_millis(100));
        };
        Some(Self { guest, portal: (Ipv4Addr::LOCALHOST, portal).into(), orders, log })
    }

    /// Where it listens, as this machine sees it.
    #[must_use]
    pub fn portal(&self) -> SocketAddr {
        self.portal
    }

    /// Has the guest do something: a function of `guest/lio.sh` and its arguments.
    ///
    /// # Panics
    /// When it does not succeed there.
    pub fn order(&mut self, words: &str) {
        let answer = ask(&mut self.orders, words);
        assert_eq!(answer.as_deref(), Some("ok"), "{words}:\n{}", said(&self.log));
    }

    /// The kernel takes its targets down and the guest ends; nothing unexpected may be in its log.
    ///
    /// # Panics
    /// When it is not so.
    pub fn finish(mut self) {
        self.order("finish");
        let status = self.guest.wait().expect("a child of ours");
        assert!(status.success(), "{status}:\n{}", said(&self.log));
    }
}

impl Drop for Lio {
    fn drop(&mut self) {
        // `run` takes QEMU with it when it is told to end, so it must not be killed at once.
        if self.guest.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = Command::new("kill").arg(self.guest.id().to_string()).status();
            let _ = self.guest.wait();
        }
        if std::thread::panicking() {
            let _ =
                writeln!(std::io::stderr(), "end of the guest's kernel log:\n{}", tail(&self.log, "kernel"));
        }
    }
}

/// Where `setup` puts things.
fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).unwrap_or_default();
    base.join("cnic-stock-driver")
}

fn greet(control: SocketAddr) -> Option<BufReader<TcpStream>> {
    let stream = TcpStream::connect(control).ok()?;
    // QEMU may have called in vain and call again later than a new connection is there.
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut orders = BufReader::new(stream);
    let ready = ask(&mut orders, "true")? == "ok";
    orders.get_ref().set_read_timeout(Some(ANSWER)).ok()?;
    ready.then_some(orders)
}

fn ask(orders: &mut BufReader<TcpStream>, words: &str) -> Option<String> {
    orders.get_mut().write_all(format!("{words}\n").as_bytes()).ok()?;
    let mut answer = String::new();
    orders.read_line(&mut answer).ok().filter(|&n| n > 0)?;
    Some(answer.trim_end().to_owned())
}

/// The end of what the guest and `run` have printed.
fn said(log: &TempDir) -> String {
    tail(log, "run")
}

fn tail(log: &TempDir, file: &str) -> String {
    let mut text = Vec::new();
    let _ = File::open(log.path().join(file)).and_then(|mut f| f.read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
