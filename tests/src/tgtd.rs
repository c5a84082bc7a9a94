//! tgtd on loopback or in a network namespace: started by the test, with its own port and control port.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{free_port, peer};

/// A user and a secret.
pub type Account<'a> = (&'a str, &'a str);

/// A running tgtd. It is killed when dropped.
pub struct Tgtd {
    program: PathBuf,
    admin: PathBuf,
    /// The network namespace that it lives in; the test's own if empty.
    netns: String,
    child: Child,
    portal: SocketAddr,
    control: u16,
    targets: u32,
    /// What tgtadm was told, for a restart.
    steps: Vec<Vec<String>>,
}

impl Tgtd {
    /// Starts a daemon without targets. `None` if tgtd is not installed (see [`peer`]).
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_in("", ([127, 0, 0, 1], free_port()).into())
    }

    /// Starts a daemon in a network namespace (`ip netns`; the test's own if empty), listening on all its
    /// addresses on the port of `portal`. `None` if tgtd is not installed.
    #[must_use]
    pub fn start_in(netns: &str, portal: SocketAddr) -> Option<Self> {
        let program = peer("tgtd", "tgt")?;
        let admin = peer("tgtadm", "tgt")?;
        let control = free_port() % 30_000;
        let netns = netns.to_owned();
        let child = spawn(&program, &netns, portal, control);
        let me = Self { program, admin, netns, child, portal, control, targets: 0, steps: Vec::new() };
        me.wait();
        Some(me)
    }

    /// Where it listens.
    #[must_use]
    pub fn portal(&self) -> SocketAddr {
        self.portal
    }

    /// Adds a target whose LUN 1 is a file, with optional incoming and outgoing CHAP accounts.
    ///
    /// # Panics
    /// When tgtadm fails.
    pub fn add(
        &mut self,
        name: &str,
        file: &Path,
        incoming: Option<Account<'_>>,
        outgoing: Option<Account<'_>>,
    ) {
        let tid = self.add_empty(name).to_string();
        let tid = tid.as_str();
        let file = file.to_str().expect("a UTF-8 path");
        self.step(&["--op", "new", "--mode", "logicalunit", "--tid", tid, "--lun", "1", "-b", file]);
        for (account, direction) in [(incoming, None), (outgoing, Some("--outgoing"))] {
            let Some((user, secret)) = account else { continue };
            self.step(&["--op", "new", "--mode", "account", "--user", user, "--password", secret]);
            let mut bind = vec!["--op", "bind", "--mode", "account", "--tid", tid, "--user", user];
            bind.extend(direction);
            self.step(&bind);
        }
    }

    /// Adds a target without a disk; returns its number.
    ///
    /// # Panics
    /// When tgtadm fails.
    pub fn add_empty(&mut self, name: &str) -> u32 {
        self.targets += 1;
        let tid = self.targets.to_string();
        self.step(&["--op", "new", "--mode", "target", "--tid", &tid, "-T", name]);
        self.step(&["--op", "bind", "--mode", "target", "--tid", &tid, "-I", "ALL"]);
        self.targets
    }

    /// Sets a login parameter of a target.
    ///
    /// # Panics
    /// When tgtadm fails.
    pub fn set(&mut self, tid: u32, key: &str, value: &str) {
        let tid = tid.to_string();
        self.step(&["--op", "update", "--mode", "target", "--tid", &tid, "-n", key, "-v", value]);
    }

    fn step(&mut self, args: &[&str]) {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        self.admin(&args);
        self.steps.push(args);
    }

    /// Kills the daemon as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, on the same port, with the same targets.
    ///
    /// # Panics
    /// When it does not start.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.program, &self.netns, self.portal, self.control);
        self.wait();
        for s in &self.steps {
            self.admin(s);
        }
    }

    fn admin(&self, args: &[String]) {
        let out = self.tgtadm(args).output().expect("tgtadm runs");
        assert!(out.status.success(), "tgtadm {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn tgtadm(&self, args: &[String]) -> Command {
        let mut c = inside(&self.netns, &self.admin);
        c.args(["-C", &self.control.to_string(), "--lld", "iscsi"]).args(args);
        c
    }

    fn wait(&self) {
        let start = Instant::now();
        let show = ["--op", "show", "--mode", "target"].map(str::to_owned);
        while !self.tgtadm(&show).output().is_ok_and(|out| out.status.success()) {
            assert!(start.elapsed() < Duration::from_secs(10), "tgtd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command in a network namespace. `ip netns exec` replaces itself by it, so the child is the program.
fn inside(netns: &str, program: &Path) -> Command {
    if netns.is_empty() {
        return Command::new(program);
    }
    let mut c = Command::new("ip");
    c.args(["netns", "exec", netns]).arg(program);
    c
}

fn spawn(program: &Path, netns: &str, portal: SocketAddr, control: u16) -> Child {
    let address = if netns.is_empty() { portal.to_string() } else { format!(":{}", portal.port()) };
    inside(netns, program)
        .args(["-f", "-C", &control.to_string(), "--iscsi"])
        .arg(format!("portal={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("tgtd starts")
}
