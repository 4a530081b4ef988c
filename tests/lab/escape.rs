//! What strangers wrote cannot get out of a simulated host. Every attack is carried out twice: against the walls, and
//! against a lab without the wall that stops it, where it has to succeed. An attack that more than one wall would stop
//! names the others, which are then left out of both.

use crate::kit::{Kit, exists};
use provision::lab::Wall::{self, *};
use provision::ssh::{Chunk, Credentials, Endpoint, Pool, PoolOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What an attack prints once it is out.
const OUT: &str = "I AM OUT";
/// What a file of the machine holds that no simulated host may read.
const SECRET: &str = "secret-of-the-machine-5b1e";
/// An attack that is neither out nor stopped by then hangs.
const DEADLINE: Duration = Duration::from_secs(300);

/// A lab of two hosts, and files of the machine that anybody may read or write.
struct Prison {
    kit: Kit,
    machine: tempfile::TempDir,
}

impl Prison {
    async fn new(without: &[Wall]) -> Self {
        let machine = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(machine.path(), PermissionsExt::from_mode(0o777)).expect("open to all");
        std::fs::write(machine.path().join("secret"), SECRET).expect("written");
        std::fs::write(machine.path().join("victim"), "whole").expect("written");
        std::fs::set_permissions(machine.path().join("victim"), PermissionsExt::from_mode(0o666))
            .expect("open");
        let exe = std::env::var_os("PROVISION_ESCAPE_EXE").unwrap_or(env!("CARGO_BIN_EXE_provision").into());
        let kit =
            Kit::up(&["a", "b"], |spec| (spec.without, spec.exe) = (without.to_vec(), exe.into())).await;
        Self { kit, machine }
    }

    /// Runs a program on the host, and returns all that it printed.
    async fn run(&self, program: &str) -> String {
        self.run_on(0, program).await
    }

    async fn run_on(&self, host: usize, program: &str) -> String {
        let pool = Pool::new(PoolOptions {
            sockets: Some(provision::lab::sockets(&self.kit.spec.dir)),
            known_hosts: vec![self.kit.lab.known_hosts()],
            credentials: Credentials { identities: vec![self.kit.lab.identity()], ..Credentials::default() },
            ..PoolOptions::default()
        });
        let host = &self.kit.spec.hosts[host];
        let endpoint = Endpoint {
            name: host.name.clone(),
            address: host.address.to_string(),
            port: host.port,
            user: "ubuntu".into(),
            ..Endpoint::default()
        };
        let at = self.machine.path().display().to_string();
        let program = format!("M={at}; PID={}; OUT='{OUT}'\n{program}", std::process::id());
        let all = async {
            let transport = provision::ssh::Dial::dial(&*pool.host(endpoint)).await.expect("a connection");
            let mut session = transport.open(&program).await.expect("a session");
            session.finish_input().await.expect("no input");
            let mut said = String::new();
            while let Some(chunk) = session.next().await {
                if let Chunk::Stdout(bytes) | Chunk::Stderr(bytes) = chunk {
                    said.push_str(&String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(4096)..]));
                    if said.len() > 1 << 20 {
                        said = String::new();
                    }
                }
            }
            said
        };
        tokio::time::timeout(DEADLINE, all).await.expect("an attack that is neither out nor stopped")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.machine.path().join(name)
    }
}

/// Returns whether the user who runs this is root, who alone is someone else on hosts.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs an attack against all walls but `others`, and without `wall` too.
async fn attack(wall: Wall, others: &[Wall], program: &str) {
    for without in [&[][..], others].into_iter().take(1 + usize::from(!others.is_empty())) {
        let prison = Prison::new(without).await;
        let said = prison.run(program).await;
        assert!(!said.contains(OUT), "out of a lab without {without:?}: {said}");
        prison.kit.lab.down().await;
    }
    let without = [others, &[wall]].concat();
    let prison = Prison::new(&without).await;
    let said = prison.run(program).await;
    assert!(
        said.contains(OUT),
        "the attack fails against a lab without {without:?}, and proves nothing: {said}"
    );
    prison.kit.lab.down().await;
}

macro_rules! attacks {
    ($($(#[doc = $doc:literal])* $name:ident: $wall:ident [$($other:ident)*], $program:expr;)+) => {
        $($(#[doc = $doc])*
        #[tokio::test]
        async fn $name() {
            attack($wall, &[$($other),*], $program).await;
        })+
    };
}

attacks! {
    /// The case pivot-escape: the folder that took the machine's root is a link to somewhere that stays.
    a_file_of_the_machine: Root [],
        "mkdir -p /keep$M; rmdir /mnt && ln -s /keep$M /mnt; rm -f /mnt 2>/dev/null; mkdir -p /mnt
         for f in $M/secret /mnt$M/secret /keep$M/secret /proc/1/root$M/secret /proc/1/cwd/../../../../..$M/secret; do
             grep -q secret-of-the-machine $f && echo $OUT; done";
    /// A socket in a folder of the machine.
    a_device_of_the_machine: Root [], "ls /dev/kmsg /dev/mem /dev/kvm /dev/fuse /mnt/dev/zero /dev/pts /dev/ptmx && echo $OUT; test -e /mnt/dev/zero && echo $OUT";
    /// sysfs of the machine.
    sysfs: Root [], "ls -d /sys/devices/virtual /mnt/sys/devices/virtual | grep . && echo $OUT";
    /// The case stranger-role.
    usr_mounted_writable: Mounts [Capabilities Syscalls],
        "mount -o remount,bind,rw /usr && echo $OUT";
    /// What covers the machine's settings is taken away.
    proc_sys_uncovered: Mounts [Capabilities Syscalls], "umount /proc/sys && echo $OUT";
    proc_mounted_writable: Mounts [Capabilities Syscalls], "mount -o remount,bind,rw /proc && echo $OUT";
    /// Control groups of the machine.
    control_groups: Mounts [Capabilities Syscalls],
        "mount -t cgroup2 none /mnt && ls /mnt/cgroup.procs && echo $OUT; mount -t cgroup -o pids none /tmp && ls /tmp/cgroup.procs && echo $OUT";
    mounting_with_the_right_to: Capabilities [Syscalls],
        "mount -t tmpfs none /mnt && echo $OUT";
    binding_with_the_right_to: Capabilities [Syscalls], "mount --bind /tmp /mnt && echo $OUT";
    /// A namespace within, in which one has all rights again.
    user_namespaces_within: Syscalls [], "unshare --user true && echo $OUT";
    /// A soft limit of 1 keeps crashes from the machine's handler; 0 does not (core(5), pipes).
    the_limit_of_core_dumps: Syscalls [], "ulimit -S -c 0 && echo $OUT";
    tracing: Syscalls [], "perl -e 'print \"I AM\", \" OUT\\n\" if syscall(101, 0, 0, 0, 0) == 0'";
    /// The keyring of a session is its user's, whatever the namespace.
    keyrings: Syscalls [], "perl -e 'print \"I AM\", \" OUT\\n\" if syscall(250, 0, -3, 1) != -1'";
    /// bpf, perf_event_open, io_uring_setup, userfaultfd, open_by_handle_at, memfd_create, shmget, process_vm_readv, fsopen,
    /// clone3, kcmp, mq_open: any that the kernel knows.
    system_calls_that_no_host_needs: Syscalls [],
        "perl -e 'for $n (321, 298, 425, 323, 304, 319, 29, 310, 430, 435, 312, 240) { $! = 0; syscall($n, 0, 0, 0, 0, 0); \
         print \"I AM\", \" OUT $n\\n\" if $! + 0 != 38 }'";
    /// Events of the machine's devices.
    netlink_of_the_machine: Syscalls [], "perl -e 'print \"I AM\", \" OUT\\n\" if socket($s, 16, 3, 15)'";
    /// Ciphers of the kernel, and sockets between a virtual machine and its own.
    other_kinds_of_sockets: Syscalls [],
        "perl -e 'for $f (40, 38, 17, 21, 29, 44) { $! = 0; print \"I AM\", \" OUT $f\\n\" if socket($s, $f, 2, 0) || socket($s, $f, 5, 0) \
         || $! + 0 != 38 }'";
    /// Types of sockets that no host needs: packets, and those of other protocols.
    other_types_of_sockets: Syscalls [],
        "perl -e 'for $t (3, 4, 6, 10) { $! = 0; print \"I AM\", \" OUT $t\\n\" if socket($s, 2, $t, 0) || $! + 0 != 38 }'";
    /// A socket whose close waits, passed to the lab, would be closed by it.
    sockets_whose_close_waits: Syscalls [],
        "perl -MSocket -e 'socket($s, AF_INET, SOCK_STREAM, 0); \
         print \"I AM\", \" OUT\\n\" if setsockopt($s, SOL_SOCKET, SO_LINGER, pack(\"ii\", 1, 9999))'";
    /// Typing into the terminal of whoever looks.
    typing_into_a_terminal: Syscalls [],
        "perl -e '$! = 0; ioctl(STDIN, 0x5412, $c = \"x\"); print \"I AM\", \" OUT\\n\" if $! + 0 != 38'";
    processes_of_the_machine: Proc [], "test -e /proc/$PID && echo $OUT";
    a_signal_to_the_machine: Processes [Id Proc], "kill -0 $PID && echo $OUT";
    /// A process of its own that may have many programs at once.
    more_processes_than_allowed: Limits [],
        "perl -e 'for (1..700) { $p = fork; last unless defined $p; if (!$p) { sleep 20; exit } $n++ } \
         print \"I AM\", \" OUT $n\\n\" if $n > 600'";
    more_memory_than_allowed: Limits [], "dd if=/dev/null of=/dev/null bs=4500M count=1 && echo $OUT";
    a_file_larger_than_allowed: Limits [], "truncate -s 3G /tmp/large && echo $OUT";
    more_open_files_than_allowed: Limits [],
        "ulimit -n $(ulimit -Hn); perl -e 'while (open $f[@f], \"<\", \"/dev/null\") { last if @f > 3000 } \
         print \"I AM\", \" OUT\\n\" if @f > 3000'";
    /// Many processes, none of which goes beyond a limit of its own.
    memory_of_many_processes: Limits [],
        "for i in 1 2 3 4 5 6; do perl -e '$x = \"a\" x 4e8; sleep 4' & done; wait; echo $OUT";
    /// A process whose first thread has ended tells of no memory in its own status.
    memory_of_another_thread: Limits [],
        "perl -Mthreads -e 'if (!fork) { threads->create(sub { sleep 1; $n = 6e8; push @x, \"a\" x $n for 1..4; sleep 6; \
         syswrite(STDOUT, \"I AM\" . \" OUT\\n\"); kill 9, $$ }); syscall(60, 0) } wait'";
    /// Many files, none of which is too large.
    disk_space: Limits [], "for i in 1 2 3 4 5; do fallocate -l 1000M /tmp/$i; done; sleep 8; echo $OUT";
    /// Folders so deep that whoever counts or removes them by going down runs out of something.
    folders_in_folders: Limits [],
        "perl -e 'chdir \"/tmp\"; for (1..3000) { mkdir \"d\"; chdir \"d\" } chmod 0, \".\"'; sleep 8; echo $OUT";
    files_without_number: Limits [],
        "perl -e 'for $d (1..3) { mkdir \"/tmp/$d\"; for (1..8000) { open F, \">\", \"/tmp/$d/$_\" } }'; sleep 15; echo $OUT";
    /// A folder never has the name by which it was found.
    files_in_a_folder_that_is_renamed: Limits [],
        "mkdir -p /tmp/p/x0; cd /tmp/p; perl -e 'for (1..4500) { open F, \">\", \"f$_\" } opendir $d, \"x0\"; \
         if (!($k = fork)) { while (1) { rename \"x$n\", \"x\" . ($n + 1) if defined $n; $n = ($n // -1) + 1; select undef, undef, undef, 0.0001 } } \
         chdir $d; for (1..19000) { open F, \">\", $_ } sleep 15; kill 9, $k; print \"I AM\", \" OUT\\n\"'";
    output_without_end: Limits [], "head -c 140M /dev/zero; echo; echo $OUT";
}

/// Hosts share abstract sockets, through which a host can be passed the folder of another one. What is written there while nothing runs
/// on that host is counted all the same.
#[tokio::test]
async fn files_in_the_folder_of_another_host() {
    // struct msghdr: no name, one buffer, a control message of SCM_RIGHTS (recvmsg(2), cmsg(3)).
    const MESSAGE: &str =
        "$io = pack(\"PQ\", $byte = \"x\", 1); sub message { pack(\"QQPQPQQ\", 0, 0, $io, 1, $_[0], 24, 0) }";
    let take = format!(
        "perl -MSocket -e '{MESSAGE} socket($l, 1, 1, 0); bind($l, pack(\"S\", 1) . \"\\0folder\"); listen($l, 1); accept($s, $l); \
         $c = \"\\0\" x 24; $m = message($c); syscall(47, fileno($s), $m, 0); $fd = unpack(\"l\", substr($c, 16, 4)); \
         chdir \"/proc/self/fd/$fd\" or die; syswrite($s, \"+\"); \
         for $d (1..6) {{ mkdir \"tmp/$d\"; for (1..8000) {{ open F, \">\", \"tmp/$d/$_\" }} }} sleep 15; print \"I AM\", \" OUT\\n\"'"
    );
    let pass = format!(
        "perl -MSocket -e '{MESSAGE} for (1..100) {{ socket($s, 1, 1, 0); connect($s, pack(\"S\", 1) . \"\\0folder\") and last; \
         select undef, undef, undef, 0.1 }} open D, \"<\", \"/\"; $c = pack(\"QllQ\", 20, 1, 1, fileno(D)); $m = message($c); \
         syscall(46, fileno($s), $m, 0); sysread($s, $x, 1); print \"passed $x\\n\"'"
    );
    for without in [&[][..], &[Limits]] {
        let prison = Prison::new(without).await;
        let (took, passed) = tokio::join!(prison.run_on(1, &take), prison.run(&pass));
        assert!(passed.contains("passed +"), "{passed} {took}");
        assert_eq!(took.contains(OUT), !without.is_empty(), "{without:?}: {took}");
        prison.kit.lab.down().await;
    }
}

/// A host can reach SSH servers too, with a key that it lets in itself: a connection has as many programs as with a real sshd.
#[tokio::test]
async fn a_connection_has_ten_sessions_at_once() {
    use russh::client::{Config, Handler, connect_stream};
    struct Any;
    impl Handler for Any {
        type Error = russh::Error;

        async fn check_server_key(
            &mut self,
            _: &russh::keys::PublicKeyOrCertificate,
        ) -> Result<bool, Self::Error> {
            Ok(true)
        }
    }
    let prison = Prison::new(&[]).await;
    let stream =
        provision::lab::connect(&provision::lab::sockets(&prison.kit.spec.dir), "a").expect("connected");
    stream.set_nonblocking(true).expect("set");
    let stream = tokio::net::UnixStream::from_std(stream).expect("a stream");
    let mut client = connect_stream(Config::default().into(), stream, Any).await.expect("a connection");
    let key = std::fs::read_to_string(prison.kit.lab.identity()).expect("a key");
    let key = russh::keys::PrivateKey::from_openssh(key).expect("a key");
    let key = russh::keys::PrivateKeyWithHashAlg::new(key.into(), None);
    assert!(client.authenticate_publickey("ubuntu", key).await.expect("asked").success());
    let mut sessions = Vec::new();
    for n in 0..10 {
        let session = client.channel_open_session().await.expect("a session");
        session.exec(true, if n == 0 { "read line" } else { "sleep 60" }).await.expect("asked");
        sessions.push(session);
    }
    assert!(client.channel_open_session().await.is_err(), "an eleventh");
    sessions[0].eof().await.expect("told");
    while sessions[0].wait().await.is_some() {}
    client.channel_open_session().await.expect("another one in the place of one that has ended");
}

/// A signal to a process group leaves the process namespace, and a process of the lab that it ends could leave a core dump, with
/// rights that no host has.
#[tokio::test]
async fn no_process_of_the_lab_is_in_a_group_of_a_program() {
    let prison = Prison::new(&[]).await;
    // A group of another process namespace is 0.
    let said = prison.run("perl -e 'print \"group \", getpgrp(0), \"\\n\"'").await;
    assert!(said.contains("group 1\n"), "that of the first process of the program's own: {said}");
    let said = prison.run("setsid perl -e 'print \"group \", getpgrp(0), \"\\n\"'").await;
    assert!(said.contains("group ") && !said.contains("group 0\n"), "{said}");
    prison.run("perl -e 'kill 3, 0; sleep 5'").await;
    assert!(!exists(&prison.kit.spec.host_dir("a").join("core")), "a process of the lab dumped core");
    let said = prison.run("ulimit -S -c; ulimit -H -c").await;
    assert_eq!(said, "0\n0\n", "a byte is less than the unit of 512 that is shown");
    assert!(prison.run("echo fine").await.contains("fine"), "it still works");
}

/// Root of a host is nobody of the machine.
#[tokio::test]
async fn root_is_an_unprivileged_user_of_the_machine() {
    for without in [&[][..], &[Id]] {
        let prison = Prison::new(without).await;
        let said =
            prison.run("touch /tmp/mine; cat /proc/self/uid_map; id -u; grep Groups /proc/self/status").await;
        let owner = std::fs::metadata(prison.kit.file("a", "/tmp/mine")).expect("made").uid();
        let own = rustix::process::geteuid().as_raw();
        match is_root() && without.is_empty() {
            true => assert!(![0, 65534].contains(&owner), "{owner}: {said}"),
            false => assert_eq!(owner, own, "a plain user is who it is, and root is where this wall is gone"),
        }
        assert!(said.lines().nth(1) == Some("0"), "it is root inside: {said}");
        prison.kit.lab.down().await;
    }
}

/// Writes a listener's word to whoever connects, for as long as the lab is up.
async fn reached(wall: Wall, connect: &str, accepted: impl AsyncFn() -> bool) {
    let prison = Prison::new(&[]).await;
    let said = prison.run(connect).await;
    assert!(!said.contains(OUT), "{said}");
    let prison = Prison::new(&[wall]).await;
    let (said, accepted) = tokio::join!(prison.run(connect), accepted());
    assert!(said.contains(OUT) && accepted, "without {wall:?}: {said}");
}

#[tokio::test]
async fn a_service_on_the_machines_loopback_is_out_of_reach() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("bound").port();
    let connect = format!("exec bash -c '(echo >/dev/tcp/127.0.0.1/{port}) && echo I AM OUT'");
    reached(Network, &connect, async || listener.accept().await.is_ok()).await;
}

#[tokio::test]
async fn an_abstract_socket_of_the_machine_is_out_of_reach() {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("provision-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    let _listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("bound");
    let connect = format!(
        "perl -MSocket -e 'socket($s, 1, 1, 0); print \"I AM\", \" OUT\\n\" if connect($s, pack(\"S\", 1) . \"\\0{name}\")'"
    );
    reached(Network, &connect, async || true).await;
}

#[tokio::test]
async fn a_socket_in_a_folder_of_the_machine_is_out_of_reach() {
    for without in [&[][..], &[Root]] {
        let prison = Prison::new(without).await;
        let _listener = std::os::unix::net::UnixListener::bind(prison.file("s")).expect("bound");
        std::fs::set_permissions(prison.file("s"), PermissionsExt::from_mode(0o777)).expect("open to all");
        let said = prison
            .run(
                "cd $M 2>/dev/null || cd /mnt$M; perl -MSocket -e 'socket($s, 1, 1, 0); \
                 print \"I AM\", \" OUT\\n\" if connect($s, pack_sockaddr_un(\"s\"))'",
            )
            .await;
        assert_eq!(said.contains(OUT), !without.is_empty(), "{without:?}: {said}");
    }
}

/// Whoever started the lab may have left files open for all of its children.
#[tokio::test]
async fn open_files_are_not_inherited() {
    for without in [&[][..], &[Descriptors]] {
        let prison = Prison::new(without).await;
        let open = std::fs::File::open(prison.file("secret")).expect("open");
        rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).expect("inherited");
        let said = prison.run(&format!("cat /proc/self/fd/{}", open.as_raw_fd())).await;
        assert_eq!(said.contains(SECRET), !without.is_empty(), "{without:?}: {said}");
    }
}

/// /dev/tty is the terminal of whoever started the lab, were it still that of its session.
#[tokio::test]
async fn programs_are_in_no_session_of_the_machine() {
    let session = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(3)?.parse::<u32>().ok()
    };
    let own = session(std::process::id()).expect("a session");
    for without in [&[][..], &[Terminal]] {
        let prison = Prison::new(without).await;
        let run = prison.run("touch /tmp/begun; sleep 3");
        let look = async {
            while !exists(&prison.kit.file("a", "/tmp/begun")) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let exe = prison.kit.spec.dir.join("tool");
            let all = std::fs::read_dir("/proc").expect("/proc").flatten();
            let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
            let of_lab = |pid: &u32| {
                let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.starts_with(&exe.display().to_string()) && line.contains("lab-keeper")
            };
            pids.filter(of_lab).filter_map(session).collect::<Vec<u32>>()
        };
        let (_, sessions) = tokio::join!(run, look);
        assert!(!sessions.is_empty(), "no program runs");
        assert_eq!(sessions.contains(&own), !without.is_empty(), "{without:?}: {sessions:?}, own {own}");
    }
}

/// A unit of k0s on the host, and what systemctl asks of the lab to start it.
const START: &str = "printf '[Service]\\nExecStart=/usr/local/bin/k0s controller --token-file=/etc/token\\n' \
    >/etc/systemd/system/k0scontroller.service
    start() { perl -MSocket -e 'socket($s, 1, 1, 0); connect($s, pack_sockaddr_un(\"/run/lab/init.sock\")) or die; \
    syswrite $s, qq({\"op\":\"start\",\"unit\":\"k0scontroller.service\"}\\n); print <$s>'; }\n";

/// The case plain-symlink: what the lab writes on a host goes where a link of the host leads.
#[tokio::test]
async fn no_link_of_a_host_is_written_through() {
    for without in [&[][..], &[Paths]] {
        let prison = Prison::new(without).await;
        std::fs::create_dir(prison.file("outside")).expect("made");
        let said = prison
            .run(&format!("{START} mkdir -p /var/lib/k0s; ln -sfn $M/outside /var/lib/k0s/pki; start"))
            .await;
        let written = std::fs::read_dir(prison.file("outside")).expect("there").count() > 0;
        assert_eq!(written, !without.is_empty(), "{without:?}: {said}");
        let said = prison.run(&format!("{START} rm -rf /var/lib/k0s; start")).await;
        assert!(said.starts_with("ok") && exists(&prison.kit.file("a", "/var/lib/k0s/pki/ca.crt")), "{said}");
    }
}

/// The lab reads a token where a host's unit says, and keeps it.
#[tokio::test]
async fn no_link_of_a_host_is_read_through() {
    for without in [&[][..], &[Paths]] {
        let prison = Prison::new(without).await;
        let said = prison.run(&format!("{START} ln -sfn $M/secret /etc/token; start")).await;
        let seen = std::fs::read_to_string(prison.kit.spec.dir.join("tokens.seen")).unwrap_or_default();
        assert_eq!(seen.contains(SECRET), !without.is_empty(), "{without:?}: {said}");
    }
}

/// The lab waits for nothing that a host has made, and reads no more than it has to.
#[tokio::test]
async fn fifos_and_endless_files_and_requests_do_not_hold_the_lab() {
    let prison = Prison::new(&[]).await;
    let said = prison
        .run(&format!("{START} rm -f /etc/token; mkfifo /etc/token; start; rm -f /etc/token; truncate -s 1G /etc/token; start"))
        .await;
    assert_eq!(said.matches("ok").count() + said.matches("error").count(), 2, "{said}");
    let said = prison
        .run(
            "rm -f /etc/systemd/system/k0scontroller.service /etc/token
             perl -MSocket -e '$SIG{PIPE} = \"IGNORE\"; socket($s, 1, 1, 0); connect($s, pack_sockaddr_un(\"/run/lab/init.sock\")); \
             $x = \"a\" x 65536; for (1..1000) { syswrite($s, $x) or last; $n++ } print \"took \", $n || 0, \"\\n\"'",
        )
        .await;
    let took: u32 = said.trim().strip_prefix("took ").and_then(|n| n.parse().ok()).expect("a number");
    assert!(took < 100, "a request of {took} times 64 KiB was read");
    let said = prison.run("for i in $(seq 80); do systemd-run --no-block sleep 30; done 2>&1").await;
    assert!(said.contains("run already"), "any number of detached programs: {said}");
    assert!(prison.run("echo fine").await.contains("fine"), "it still works");
}

/// The machine's executable is a host's tool.
#[tokio::test]
async fn the_executable_is_not_changed_through_any_of_its_names() {
    for without in [&[][..], &[Mounts, Id]] {
        let prison = Prison::new(without).await;
        // A link to the tests' own, were it not for this.
        let tool = prison.kit.spec.host_dir("a").join("tool");
        std::fs::copy(&prison.kit.spec.exe, prison.file("provision")).expect("copied");
        std::fs::remove_file(&tool).expect("removed");
        std::fs::hard_link(prison.file("provision"), &tool).expect("linked");
        let before = std::fs::metadata(prison.file("provision")).expect("there").mode();
        let said = prison
            .run(
                "for f in /opt/lab/tool /proc/1/exe; do chmod 4755 $f; ln $f /tmp/$$; (: >>$f); done
                 /opt/lab/tool sleep 1 & chmod 4755 /proc/$!/exe; true",
            )
            .await;
        let after = std::fs::metadata(prison.file("provision")).expect("there").mode();
        assert_eq!(before != after, !without.is_empty(), "{without:?}: {before:o} {after:o} {said}");
    }
}

/// One program moves folders and links about while the walls of others are built.
#[tokio::test]
async fn links_that_come_and_go_while_walls_are_built() {
    for without in [&[][..], &[Root]] {
        let prison = Prison::new(without).await;
        let juggle = prison.run(
            "perl -e 'for (1..4000) { for $d (\"mnt\", \"opt\", \"dev\", \"root\", \"etc\") { rename \"/$d\", \"/.$d\"; symlink \"/keep\", \"/$d\"; \
             symlink \"/proc/1/root\", \"/keep\"; unlink \"/$d\"; rename \"/.$d\", \"/$d\" } }'",
        );
        let look = async {
            let mut out = false;
            for _ in 0..25 {
                let said = prison
                    .run("for f in $M/secret /mnt$M/secret /keep$M/secret; do cat $f 2>/dev/null; done; true")
                    .await;
                out |= said.contains(SECRET);
            }
            out
        };
        let (said, out) = tokio::join!(juggle, look);
        assert_eq!(out, !without.is_empty(), "{without:?}: {said}");
    }
}

/// What is said of a mount by its path would be said of another one, if a host renames what leads to it meanwhile.
#[tokio::test]
async fn folders_that_trade_places_while_walls_are_built() {
    for without in [&[][..], &[Mounts]] {
        let prison = Prison::new(without).await;
        let trade = prison.run(
            "mkdir -p /opt/l2; touch /opt/l2/tool; perl -e 'for (1..200000) { syscall(316, -100, \"/opt/lab\", -100, \"/opt/l2\", 2); \
             select(undef, undef, undef, 0.00005) if $_ % 5 == 0; exit if -e \"/stop\" }'",
        );
        let look = async {
            let mut said = String::new();
            for _ in 0..25 {
                said += &prison
                    .run("awk '$5 ~ /tool$/ && $6 ~ /^rw/ { print \"I AM\" \" OUT\" }' /proc/self/mountinfo")
                    .await;
            }
            prison.run("touch /stop").await;
            said
        };
        let (_, said) = tokio::join!(trade, look);
        assert_eq!(said.contains(OUT), !without.is_empty(), "{without:?}: {said}");
    }
}

/// A program starts in /root: a link there leads to nothing that the processes around it have open.
#[tokio::test]
async fn a_home_that_is_a_link() {
    let prison = Prison::new(&[]).await;
    let links: Vec<String> = (0..12)
        .map(|n| format!("/proc/self/fd/{n}"))
        .chain(["cwd", "root"].map(|l| format!("/proc/self/{l}")))
        .collect();
    for link in links {
        prison.run(&format!("cd /; rm -rf /root; ln -s {link} /root")).await;
        let said =
            prison.run("for up in . .. ../.. ../../..; do cat $up$M/secret 2>/dev/null; done; true").await;
        assert!(!said.contains(SECRET), "{link}: {said}");
    }
}

/// What a program finds as `/proc/self/exe` when it is started is the lab's executable, on a mount that it cannot change.
#[tokio::test]
async fn the_first_process_runs_from_a_read_only_mount() {
    // Who is not root may not look at a process that has closed itself.
    if !is_root() {
        return;
    }
    for without in [&[][..], &[Mounts]] {
        let prison = Prison::new(without).await;
        let mark = format!("sleep 3; : {}", prison.kit.spec.dir.display());
        let look = async {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            let pids = std::fs::read_dir("/proc").expect("processes").flatten();
            let read_only = pids.filter_map(|entry| {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                let exe = rustix::fs::statvfs(entry.path().join("exe")).ok()?;
                (line.contains("lab-init") && line.contains(&mark))
                    .then(|| exe.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
            });
            read_only.collect::<Vec<bool>>()
        };
        let (_, found) = tokio::join!(prison.run(&mark), look);
        assert_eq!(found, [without.is_empty()], "{without:?}");
    }
}

/// What runs as root here runs as a plain user too, as one that nothing else runs as.
#[test]
fn the_same_holds_for_a_plain_user() {
    const USER: &str = "54871";
    if !is_root() || std::process::Command::new("setpriv").arg("--version").output().is_err() {
        return;
    }
    let place = tempfile::tempdir().expect("a folder");
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, place.path().join(name)).expect("copied");
        place.path().join(name)
    };
    let (tests, exe) = (
        copy(&std::env::current_exe().expect("a path"), "tests"),
        copy(env!("CARGO_BIN_EXE_provision").as_ref(), "exe"),
    );
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o777)).expect("open to all");
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", USER, "--regid", USER, "--clear-groups"])
        .arg(tests)
        .args(["escape::", "--test-threads=2"])
        .env("PROVISION_ESCAPE_EXE", exe)
        .env("TMPDIR", place.path())
        .env("HOME", place.path())
        .current_dir(place.path())
        .output()
        .expect("setpriv runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("test escape::a_file_of_the_machine ... ok"), "it ran: {said}");
}
