//! Where a server or a node listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use frameloom_core::{Error, Result};
use frameloom_server::serve::{Listener, Tls};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::shown;

/// The port where none is given.
const PORT: u16 = 8080;

/// Where to listen.
pub(crate) enum Place {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// Where to listen, as asked for.
pub(crate) fn places(listen: &[String]) -> Result<Vec<Place>> {
    if listen.is_empty() {
        let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let mut here = both.to_vec();
        // Containers often have one family only. Where there is none at all, binding says why.
        here.retain(|ip| TcpListener::bind((*ip, 0)).is_ok());
        let here = if here.is_empty() { both.to_vec() } else { here };
        return Ok(here.into_iter().map(|ip| Place::Tcp(SocketAddr::new(ip, PORT))).collect());
    }
    let place = |text: &String| match text.strip_prefix("unix:") {
        Some(path) if !path.is_empty() => Ok(Place::Unix(path.into())),
        _ => text.parse().map(Place::Tcp).map_err(|_| {
            Error::invalid(format!(
                "--listen '{text}' is not IP:PORT, [IP6]:PORT or unix:PATH, like 127.0.0.1:8080"
            ))
        }),
    };
    listen.iter().map(place).collect()
}

/// A bound TCP socket; `[::]` answers IPv4, too.
fn bind(address: SocketAddr) -> Result<TcpListener> {
    let failed = |e: std::io::Error| {
        let hint = match e.kind() {
            std::io::ErrorKind::AddrInUse => "; another program has it, give another --listen",
            _ => "",
        };
        Error::io(format!("cannot listen on {address}{hint}"), &e)
    };
    let open = || -> std::io::Result<TcpListener> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = rustix::net::socket_with(
            family,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            Some(ipproto::TCP),
        )?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if let SocketAddr::V6(v6) = address {
            sockopt::set_ipv6_v6only(&socket, !v6.ip().is_unspecified())?;
        }
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, 1024)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(failed)
}

/// Binds all sockets. Port 0 is one port that is free at all addresses that ask for it.
pub(crate) fn bind_all(places: &[Place]) -> Result<Vec<(TcpListener, SocketAddr)>> {
    let wanted: Vec<SocketAddr> = places
        .iter()
        .filter_map(|place| match place {
            Place::Tcp(address) => Some(*address),
            Place::Unix(_) => None,
        })
        .collect();
    let mut last = None;
    for _ in 0..20 {
        let mut free = None;
        let mut bound = Vec::new();
        for address in &wanted {
            let mut address = *address;
            if address.port() == 0 {
                address.set_port(free.unwrap_or(0));
            }
            match bind(address) {
                Ok(socket) => {
                    let at = socket.local_addr().map_err(|e| Error::io("cannot listen", &e))?;
                    if address.port() == 0 {
                        free = Some(at.port());
                    }
                    bound.push((socket, at));
                }
                Err(error) => {
                    last = Some(error);
                    break;
                }
            }
        }
        if bound.len() == wanted.len() {
            return Ok(bound);
        }
        if free.is_none() {
            break;
        }
    }
    Err(last.unwrap_or_else(|| Error::internal("no address to listen on")))
}

/// This machine's own addresses, by which clients call a server that listens on all of them.
pub(crate) fn own_addresses() -> Vec<String> {
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let v6 = v6.lines().filter_map(|line| {
        let bits = u128::from_str_radix(line.split(' ').next()?, 16).ok()?;
        Some(Ipv6Addr::from(bits).to_string())
    });
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let lines: Vec<&str> = v4.lines().map(str::trim).collect();
    let local = lines.windows(2).filter(|w| w[1].starts_with("/32 host LOCAL"));
    let v4 = local.filter_map(|w| w[0].strip_prefix("|-- ").map(str::to_owned));
    v6.chain(v4).collect()
}

fn unix(path: &Path) -> Result<Listener> {
    use std::os::unix::net::{UnixListener, UnixStream};
    let failed =
        |e: std::io::Error| Error::io(format!("cannot listen on 'unix:{}'", shown(path)), &e);
    if path.exists() && UnixStream::connect(path).is_err() {
        // Left behind by a server that died.
        std::fs::remove_file(path).map_err(failed)?;
    }
    let socket = UnixListener::bind(path).map_err(failed)?;
    Listener::unix(socket, &path.to_string_lossy())
}

/// Listens at all places; within a tokio runtime.
///
/// # Errors
/// Of the system.
pub(crate) fn listeners(
    sockets: Vec<(TcpListener, SocketAddr)>,
    places: &[Place],
    tls: Option<&Tls>,
) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for (socket, _) in sockets {
        listeners.push(Listener::tcp(socket, tls.cloned())?);
    }
    for place in places {
        if let Place::Unix(path) = place {
            listeners.push(unix(path)?);
        }
    }
    Ok(listeners)
}

/// Removes what Unix sockets leave.
pub(crate) fn remove_sockets(places: &[Place]) {
    for place in places {
        if let Place::Unix(path) = place {
            // It may be gone already.
            drop(std::fs::remove_file(path));
        }
    }
}
