//! The system calls that programs on simulated hosts may make; all others do not exist for them. Linux only.
//!
//! The list is that of Docker's default profile without what a host needs for nothing and what reaches beyond its walls or
//! past its limits: namespaces and mounts, keys, ptrace and the memory of other processes, BPF, performance counters,
//! io_uring (which makes system calls that no filter sees), file handles, clocks; and what takes memory that belongs to no
//! process which could be ended: inotify (of which a user has few, and which would show what the machine does), memory files, System V shared memory, POSIX message queues, vmsplice.
//! It names what is allowed, so that calls of kernels to come and of other ABIs are not.

use serde_json::{Value, json};

/// What both architectures have.
const ALLOWED: &str = "accept accept4 bind brk cachestat capget capset chdir clock_getres clock_gettime clock_nanosleep close \
    close_range connect copy_file_range dup dup3 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 eventfd2 execve execveat exit \
    exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fdatasync \
    fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv \
    futex_wake get_robust_list getcpu getcwd getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpid \
    getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday \
    getuid getxattr ioprio_get kill landlock_add_rule \
    landlock_create_ruleset landlock_restrict_self lgetxattr linkat listen listxattr llistxattr lremovexattr lseek lsetxattr \
    madvise membarrier mincore mkdirat mknodat mlock mlock2 mmap mprotect mremap mseal msync munlock munmap nanosleep \
    newfstatat openat openat2 pidfd_open pidfd_send_signal pipe2 pkey_alloc pkey_free pkey_mprotect ppoll prctl pread64 preadv \
    preadv2 pselect6 pwrite64 pwritev pwritev2 read readahead readlinkat readv recvfrom recvmmsg recvmsg removexattr \
    renameat renameat2 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity \
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_yield sendfile \
    sendmmsg sendmsg sendto set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority \
    setregid setresgid setresuid setreuid setsid setuid setxattr shutdown sigaltstack signalfd4 splice \
    statfs statx symlinkat sync sync_file_range syncfs sysinfo tgkill timer_create timer_delete timer_getoverrun \
    timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlinkat \
    utimensat wait4 waitid write writev";

/// What only x86-64 has.
#[cfg(target_arch = "x86_64")]
const ALSO_ALLOWED: &str = "access alarm arch_prctl chmod chown creat dup2 epoll_create epoll_wait eventfd fork futimesat getdents \
    getpgrp lchown link lstat mkdir mknod open pause pipe poll readlink rename rmdir select signalfd stat symlink \
    time unlink utime utimes vfork";
#[cfg(not(target_arch = "x86_64"))]
const ALSO_ALLOWED: &str = "";

/// Sockets, by family, type (stream, datagram, raw, sequence of packets) and protocol: local ones, TCP and UDP on IPv4 and IPv6, and
/// netlink for devices and routes. A socket of another type or protocol could have its module loaded.
const SOCKETS: [(i32, &[i32], &[i32]); 4] =
    [(AF_UNIX, &[1, 2, 5], &[0]), (2, &[1, 2], &[0, 6, 17]), (10, &[1, 2], &[0, 6, 17]), (16, &[2, 3], &[0])];
const AF_UNIX: i32 = 1;
/// The part of a socket's type that is not a flag.
const SOCKET_TYPE: u64 = 0xf;
/// With this option the close of a socket waits for its peer, whoever closes it: the lab too, if it was passed the socket.
const SO_LINGER: [i32; 2] = [1, 13];
/// Flags of clone that make a namespace.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// ioctls, by number: of terminals (TCGETS to TCFLSH, TIOCSCTTY to TIOCOUTQ without TIOCSTI, sizes, sessions, pseudoterminals; no
/// TIOCLINUX and no TIOCSETD, which loads modules), of descriptors (FIONREAD, FIONBIO, FIOASYNC, FIOCLEX, FIONCLEX), copies and
/// flags of files, and questions about network devices.
const IOCTLS: [u32; 43] = [
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x5405,
    0x5406,
    0x5407,
    0x5408,
    0x5409,
    0x540a,
    0x540b,
    0x540e,
    0x540f,
    0x5410,
    0x5411,
    0x5413,
    0x5414,
    0x541b,
    0x5421,
    0x5422,
    0x5429,
    0x5441,
    0x5450,
    0x5451,
    0x5452,
    0x802c_542a,
    0x402c_542b,
    0x402c_542c,
    0x402c_542d,
    0x8004_5430,
    0x4004_5431,
    0x4004_9409,
    0x4020_940d,
    0x8008_6601,
    0x8910,
    0x8912,
    0x8913,
    0x8915,
    0x8919,
    0x891b,
    0x8921,
    0x8927,
    0x8933,
];
/// fcntl that tells of changes in a folder, as inotify does.
const F_NOTIFY: u32 = 1026;
/// What the keeper has set this limit to keeps crashes from a program of the machine, and a smaller one does not.
const RLIMIT_CORE: u32 = 4;
/// "Function not implemented": programs then do without, or use an older call.
const ENOSYS: i32 = 38;

fn argument(index: u8, op: Value, value: impl Into<Value>) -> Value {
    json!({"index": index, "type": "dword", "op": op, "val": value.into()})
}

fn rules() -> Value {
    let names = ALLOWED.split_whitespace().chain(ALSO_ALLOWED.split_whitespace());
    let mut rules: Vec<Value> = names.map(|name| json!({"syscall": name})).collect();
    for (family, types, protocols) in SOCKETS {
        for (kind, protocol) in types.iter().flat_map(|kind| protocols.iter().map(move |p| (kind, p))) {
            let all = [
                argument(0, json!("eq"), family),
                argument(1, json!({"masked_eq": SOCKET_TYPE}), *kind),
                argument(2, json!("eq"), *protocol),
            ];
            rules.push(json!({"syscall": "socket", "args": all}));
        }
    }
    for (index, other) in (1..).zip(SO_LINGER) {
        rules.push(json!({"syscall": "setsockopt", "args": [argument(index, json!("ne"), other)]}));
    }
    rules.push(json!({"syscall": "socketpair", "args": [argument(0, json!("eq"), AF_UNIX)]}));
    rules.push(json!({"syscall": "clone", "args": [argument(0, json!({"masked_eq": NEW_NAMESPACES}), 0)]}));
    rules.extend(
        IOCTLS
            .iter()
            .map(|request| json!({"syscall": "ioctl", "args": [argument(1, json!("eq"), *request)]})),
    );
    rules.push(json!({"syscall": "fcntl", "args": [argument(1, json!("ne"), F_NOTIFY)]}));
    rules.push(json!({"syscall": "setrlimit", "args": [argument(0, json!("ne"), RLIMIT_CORE)]}));
    rules.push(json!({"syscall": "prlimit64", "args": [argument(1, json!("ne"), RLIMIT_CORE)]}));
    // To ask for it is harmless.
    let asks = json!({"index": 2, "type": "qword", "op": "eq", "val": 0});
    rules.push(json!({"syscall": "prlimit64", "args": [argument(1, json!("eq"), RLIMIT_CORE), asks]}));
    json!({"program": {"mismatch_action": {"errno": ENOSYS}, "match_action": "allow", "filter": rules}})
}

/// Takes all other system calls from this process and from what it starts.
pub(super) fn restrict() -> Result<(), String> {
    let arch =
        std::env::consts::ARCH.try_into().map_err(|_| format!("no filter for {}", std::env::consts::ARCH))?;
    let filters = seccompiler::compile_from_json(rules().to_string().as_bytes(), arch);
    let filters = filters.map_err(|e| format!("cannot compile the filter: {e}"))?;
    let filter = filters.get("program").ok_or("the filter is empty")?;
    seccompiler::apply_filter(filter).map_err(|e| format!("cannot filter system calls: {e}"))
}
