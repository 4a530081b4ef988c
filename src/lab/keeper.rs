//! The processes around a program on a simulated host, each started from the lab's executable. Linux only.
//!
//! `keep` is outside: the user without rights that owns the host, in the lab's network and in a first user namespace, which
//! owns the mounts. `init` is the first process of the program's process namespace: it mounts what the host sees, goes into
//! a second user namespace, in which those mounts are locked, gives up every right that a program does not need, and
//! starts the program. Neither outlives the lab: the kernel ends each with its parent.

use super::walls::{INIT, PATH, Setup, Wall, parent};
use super::{pods, sandbox, syscalls};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode};

/// Processes and threads of one lab at once.
const MOST_PROCESSES_OF_LAB: u64 = 8 << 10;
/// Signals and timers of one lab that wait at once: far fewer than a user has, or half of those of one who has few.
const MOST_SIGNALS_OF_LAB: u64 = 16 << 10;
/// A core dump of one byte is none, and the only size that is not handed to a program of the machine either (core(5), pipes).
const NO_CORE: u64 = 1;
/// What one program and all that it starts may have: processes and threads, and pending signals and timers, which the kernel counts
/// for the user who runs the lab; per process descriptors (as many may be on their way between processes), bytes of address space,
/// bytes of a file, seconds of processor time, and nothing of what would outlive it or belong to all users.
const LIMITS: [(Resource, u64); 9] = [
    (Resource::Nproc, 512),
    (Resource::Nofile, 512),
    (Resource::Sigpending, 1024),
    (Resource::As, 4 << 30),
    (Resource::Fsize, 1 << 30),
    (Resource::Cpu, 3600),
    (Resource::Core, NO_CORE),
    (Resource::Msgqueue, 0),
    (Resource::Memlock, 64 << 10),
];
/// What root needs to be root over the files and processes of a host, and nothing else.
const CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID);

/// Says which wall could not be put up.
fn cannot(wall: Wall, what: &str) -> impl Fn(Errno) -> String {
    move |error| format!("wall {wall}: cannot {what}: {error}")
}

/// Leaves what this process has in common with others. It has no threads yet, and keeps its descriptors.
#[allow(deprecated)]
fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // rustix calls it unsafe for UnshareFlags::FILES alone, which is not asked for here.
    rustix::thread::unshare(flags)
}

/// Makes this process root of the user namespace that it has just made, and of nothing else. `proc` is /proc.
fn become_root(proc: &OwnedFd, user: u32, group: u32) -> std::io::Result<()> {
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {user} 1")),
        ("gid_map", format!("0 {group} 1")),
    ];
    for (name, text) in maps {
        let file = openat(proc, format!("self/{name}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        File::from(file).write_all(text.as_bytes())?;
    }
    Ok(())
}

/// Makes a user namespace, with more namespaces that it owns.
fn enter_namespaces(proc: &OwnedFd, wall: Wall, more: UnshareFlags) -> Result<(), String> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER | more).map_err(cannot(wall, "make a user namespace"))?;
    become_root(proc, user, group)
        .map_err(|e| format!("wall {wall}: cannot map users in a user namespace: {e}"))
}

fn proc_folder() -> Result<OwnedFd, String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/proc", flags, Mode::empty()).map_err(|e| format!("cannot open /proc: {e}"))
}

/// Becomes a user without rights, and ends with the process that asked for it.
fn give_up_rights(setup: &Setup) -> Result<(), String> {
    use rustix::process::{Gid, Uid};
    // First of all: whatever ends a process around programs must not leave a file, or start a program of the machine.
    limit(Resource::Core, NO_CORE)?;
    if setup.has(Wall::Descriptors) {
        close_fds::set_fds_cloexec(3, &[]);
    }
    if setup.has(Wall::Terminal) {
        // A process that leads its group has none that it could leave.
        let _ = rustix::process::setsid();
    }
    if !setup.dir.as_os_str().is_empty() {
        rustix::process::chdir(&setup.dir)
            .map_err(|e| format!("cannot enter {}: {e}", setup.dir.display()))?;
    }
    if let Some(id) = setup.outer {
        let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
        rustix::thread::set_thread_groups(&[])
            .and_then(|()| rustix::thread::set_thread_res_gid(group, group, group))
            .and_then(|()| rustix::thread::set_thread_res_uid(user, user, user))
            .map_err(cannot(Wall::Id, "become a user without rights"))?;
        // Who was root has a /proc/self that is root's.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
            .map_err(cannot(Wall::Id, "own /proc/self"))?;
    }
    end_with_parent()?;
    // One that ended before the request above will never end this process.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent == Some(setup.parent) { Ok(()) } else { Err("the lab has ended".to_owned()) }
}

/// Asks the kernel to end this process when its parent ends, however that comes about. A change of user forgets it.
fn end_with_parent() -> Result<(), String> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| e.to_string())
}

/// Keeps others from using what this process has under /proc.
fn close_proc() -> Result<(), String> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(cannot(Wall::Proc, "close /proc/1"))
}

fn limit(resource: Resource, most: u64) -> Result<(), String> {
    let most = rustix::process::getrlimit(resource).maximum.map_or(most, |now| now.min(most));
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    rustix::process::setrlimit(resource, limit).map_err(cannot(Wall::Limits, "set a limit"))
}

/// Runs `command` on the host whose folder is in `setup`, from outside of its process namespace.
pub(super) fn keep(mut setup: Setup, command: &OsStr) -> Result<ExitCode, String> {
    give_up_rights(&setup)?;
    if setup.has(Wall::Limits) {
        // When memory runs out, the kernel takes this before anything of the machine's.
        std::fs::write("/proc/self/oom_score_adj", "1000").map_err(|e| format!("wall limits: {e}"))?;
        limit(Resource::Nproc, MOST_PROCESSES_OF_LAB)?;
        let signals = rustix::process::getrlimit(Resource::Sigpending).maximum;
        limit(
            Resource::Sigpending,
            signals.map_or(MOST_SIGNALS_OF_LAB, |all| MOST_SIGNALS_OF_LAB.min(all / 2)),
        )?;
    }
    if let Some(holder) = setup.network {
        let open =
            |kind| File::open(format!("/proc/{holder}/ns/{kind}")).map_err(|e| format!("wall network: {e}"));
        let (user, network) = (open("user")?, open("net")?);
        let enter = rustix::thread::move_into_link_name_space;
        enter(user.as_fd(), Some(LinkNameSpaceType::User))
            .and_then(|()| enter(network.as_fd(), Some(LinkNameSpaceType::Network)))
            .map_err(cannot(Wall::Network, "enter the lab's network"))?;
    }
    let mut flags =
        UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC | UnshareFlags::NEWCGROUP;
    if setup.has(Wall::Processes) {
        flags |= UnshareFlags::NEWPID;
    }
    enter_namespaces(&proc_folder()?, Wall::Root, flags)?;
    let exe = sandbox::executable(&setup)?;
    (setup.parent, setup.dir) = (std::process::id(), Default::default());
    // Nobody who is root inside may use what this process has under /proc.
    close_proc()?;
    let setup = serde_json::to_string(&setup).map_err(|e| e.to_string())?;
    let init = Command::new(exe).arg(INIT).arg(setup).arg(command).spawn();
    let status = init.and_then(|mut init| init.wait()).map_err(|e| format!("cannot start a program: {e}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(255)))
}

/// Puts up the walls around `command`, runs it, and ends when it does: the kernel then ends all that it left.
pub(super) fn init(setup: &Setup, command: &OsStr) -> Result<ExitCode, String> {
    end_with_parent()?;
    // A parent that ended before that request will never end this process. It is not in this process namespace.
    let own = std::fs::read_link("/proc/self").ok().and_then(|pid| pid.to_str()?.parse().ok());
    if own.and_then(parent) != Some(setup.parent) {
        return Err("the lab has ended".to_owned());
    }
    if setup.has(Wall::Processes) {
        // A signal to a process group leaves the process namespace: the programs' must not be that of the keeper.
        let _ = rustix::process::setsid();
    }
    let proc = proc_folder()?;
    sandbox::enter(setup)?;
    if setup.has(Wall::Mounts) {
        enter_namespaces(&proc, Wall::Mounts, UnshareFlags::NEWNS)?;
    }
    drop(proc);
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).env_clear().env("PATH", PATH).env("HOME", "/root").env("SHELL", "/bin/sh");
    shell.env("PROVISION_LAB", "1");
    if let Some(kind) = &setup.terminal {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        shell.env("TERM", kind).env("PS1", format!("LAB {name} # "));
        // A terminal that does not control the shell takes no Ctrl-C; the shell says so and works all the same.
        let _ = rustix::process::setsid();
        let _ = rustix::process::ioctl_tiocsctty(rustix::stdio::stdin());
    }
    if setup.has(Wall::Limits) {
        LIMITS.iter().try_for_each(|(resource, most)| limit(*resource, *most))?;
    }
    if setup.has(Wall::Capabilities) {
        drop_capabilities().map_err(cannot(Wall::Capabilities, "drop capabilities"))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(cannot(Wall::Capabilities, "set no_new_privs"))?;
    // No program may use what this process has under /proc: its executable is the machine's.
    close_proc()?;
    if setup.has(Wall::Syscalls) {
        syscalls::restrict().map_err(|e| format!("wall syscalls: {e}"))?;
    }
    let shell = shell.spawn().map_err(|e| format!("cannot start /bin/sh: {e}"))?;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get().unsigned_abs() == shell.id() => {
                let code = status.exit_status().and_then(|code| code.try_into().ok());
                return Ok(ExitCode::from(code.unwrap_or(255)));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for a program: {error}")),
        }
    }
}

fn drop_capabilities() -> rustix::io::Result<()> {
    for capability in CapabilitySet::all().difference(CAPABILITIES).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // This kernel does not have it.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    let (effective, inheritable) = (CAPABILITIES, CapabilitySet::empty());
    rustix::thread::set_capabilities(None, CapabilitySets { effective, permitted: effective, inheritable })
}

/// Makes the network of a lab, and holds it until the lab ends.
pub(super) fn hold(setup: &Setup) -> Result<ExitCode, String> {
    network(setup, None)?;
    ready().map_err(|e| e.to_string())?;
    loop {
        std::thread::park();
    }
}

/// Makes a network that has the addresses of pods, and runs in it what the lab asks for until the lab ends.
pub(super) fn pods(setup: &Setup) -> Result<ExitCode, String> {
    network(setup, Some(pods::NETWORK))?;
    pods::serve(ready).map_err(|e| e.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Tells whoever has started this process that it is ready.
fn ready() -> std::io::Result<()> {
    std::io::stdout().write_all(b"+")?;
    std::io::stdout().flush()
}

/// Enters a network of its own, all addresses of which lead back into it.
fn network(setup: &Setup, addresses: Option<(Ipv4Addr, u8)>) -> Result<(), String> {
    give_up_rights(setup)?;
    enter_namespaces(&proc_folder()?, Wall::Network, UnshareFlags::NEWNET)?;
    loopback_up().map_err(cannot(Wall::Network, "bring up loopback"))?;
    if let Some((first, prefix)) = addresses {
        loopback_address(first, prefix).map_err(cannot(Wall::Network, "add the addresses of pods"))?;
    }
    Ok(())
}

/// Brings up the loopback device of this network namespace, which is its device 1.
fn loopback_up() -> rustix::io::Result<()> {
    // struct ifinfomsg: family and type (none), index, IFF_UP, and the mask of flags to change.
    let words: [u32; 4] = [0, 1, 1, 1];
    ask_kernel(16, 5, &words.map(u32::to_ne_bytes).concat())
}

/// Adds an address to the loopback device, and with it all addresses of its network.
fn loopback_address(address: Ipv4Addr, prefix: u8) -> rustix::io::Result<()> {
    // struct ifaddrmsg: AF_INET, prefix, flags, scope, index; then IFA_LOCAL: a length, a type, four bytes.
    let mut body = vec![2, prefix, 0, 0];
    body.extend(1_u32.to_ne_bytes());
    body.extend(header(8, 2));
    body.extend(address.octets());
    // NLM_F_CREATE and NLM_F_EXCL too.
    ask_kernel(20, 0x605, &body)
}

/// Sends a request of NETLINK_ROUTE, and waits for its result.
fn ask_kernel(kind: u16, flags: u16, body: &[u8]) -> rustix::io::Result<()> {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
    // Without a protocol it is NETLINK_ROUTE.
    let kernel =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    // struct nlmsghdr: length, kind with NLM_F_REQUEST | NLM_F_ACK, sequence, sender.
    let length = u32::try_from(16 + body.len()).map_err(|_| Errno::MSGSIZE)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(header(kind, flags));
    message.extend([1_u32, 0].map(u32::to_ne_bytes).concat());
    message.extend(body);
    rustix::net::send(&kernel, &message, SendFlags::empty())?;
    let mut answer = [0; 64];
    rustix::net::recv(&kernel, &mut answer[..], RecvFlags::empty())?;
    // Behind the answer's header: 0, or an error number below it.
    let [.., a, b, c, d] = answer[..20] else { return Err(Errno::IO) };
    match i32::from_ne_bytes([a, b, c, d]) {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(-error)),
    }
}

fn header(kind: u16, flags: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (kind.to_ne_bytes(), flags.to_ne_bytes());
    [a, b, c, d]
}
