//! How often one client may ask: a token bucket for each address.
//!
//! A full bucket says nothing that a missing one does not, so full ones make room, and the table stays
//! within [`CLIENTS_MAX`]. While it has no room, whoever is not in it shares one bucket: a flood of
//! addresses takes nothing from those that are known.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

/// Most clients that are remembered: some 4 MiB.
pub const CLIENTS_MAX: usize = 65_536;
/// Requests a second that a client may make, unless the operator says otherwise.
pub const CLIENT_RATE_DEFAULT: u32 = 200;
/// For how many seconds' worth of requests a client may come at once.
pub const BURST_SECONDS: u32 = 10;
/// When to come again, in seconds: by then the bucket has something, whatever its rate.
pub(crate) const RETRY_AFTER_SECONDS: u64 = 1;

/// The buckets of all clients.
#[derive(Debug)]
pub(crate) struct Rates {
    per_second: u32,
    clients_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    known: HashMap<IpAddr, Bucket>,
    strangers: Bucket,
    /// When full buckets were looked for last: it takes a walk over all.
    swept: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    at: u64,
}

impl Rates {
    /// So many requests a second for each client; 0 is no limit.
    pub(crate) fn new(per_second: u32) -> Self {
        Self::bounded(per_second, CLIENTS_MAX)
    }

    fn bounded(per_second: u32, clients_max: usize) -> Self {
        let strangers = Bucket { left: per_second.saturating_mul(BURST_SECONDS), at: 0 };
        let table = Table { known: HashMap::new(), strangers, swept: None };
        Self { per_second, clients_max, table: Mutex::new(table) }
    }

    /// Whether `client` may ask for something at `now`, in seconds. Clients on the loopback address
    /// always may: they are on the broker's own machine, or a proxy there that stands for many.
    pub(crate) fn admit(&self, client: IpAddr, now: u64) -> bool {
        let client = client.to_canonical();
        if self.per_second == 0 || client.is_loopback() {
            return true;
        }
        let client = network(client);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { known, strangers, swept } = &mut *table;
        if known.len() >= self.clients_max && !known.contains_key(&client) && *swept != Some(now) {
            *swept = Some(now);
            known.retain(|_, bucket| !bucket.is_full(self.per_second, now));
        }
        let bucket = if known.len() < self.clients_max || known.contains_key(&client) {
            known.entry(client).or_insert(Bucket { left: self.burst(), at: now })
        } else {
            strangers
        };
        bucket.take(self.per_second, now)
    }

    fn burst(&self) -> u32 {
        self.per_second.saturating_mul(BURST_SECONDS)
    }
}

impl Bucket {
    fn take(&mut self, per_second: u32, now: u64) -> bool {
        // A clock that was set back fills nothing, and starts anew from there.
        *self = Self { left: self.left_at(per_second, now), at: now };
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }

    fn left_at(&self, per_second: u32, now: u64) -> u32 {
        let seconds = u32::try_from(now.saturating_sub(self.at)).unwrap_or(u32::MAX);
        let filled = self.left.saturating_add(per_second.saturating_mul(seconds));
        filled.min(per_second.saturating_mul(BURST_SECONDS))
    }

    fn is_full(&self, per_second: u32, now: u64) -> bool {
        self.left_at(per_second, now) == per_second.saturating_mul(BURST_SECONDS)
    }
}

/// Who counts as one: an IPv4 address, or the /64 that is the least that an IPv6 client gets.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::from(u64::MAX) << 64)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn client(n: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + n).into())
    }

    fn admitted(rates: &Rates, client: IpAddr, now: u64) -> usize {
        (0..10_000).take_while(|_| rates.admit(client, now)).count()
    }

    #[test]
    fn a_client_gets_its_burst_and_then_its_rate_and_nobody_elses() {
        let rates = Rates::new(3);
        assert_eq!(admitted(&rates, client(1), NOW), 30);
        assert_eq!(admitted(&rates, client(2), NOW), 30);
        assert_eq!(admitted(&rates, client(1), NOW + 1), 3);
        assert_eq!(admitted(&rates, client(1), NOW + 3), 6);
        assert_eq!(admitted(&rates, client(1), NOW + 1000), 30);
        // An hour back, and nobody waits for the hour to come again.
        assert_eq!(admitted(&rates, client(1), NOW - 3600), 0);
        assert_eq!(admitted(&rates, client(1), NOW - 3599), 3);
        assert_eq!(admitted(&rates, client(1), u64::MAX), 30);
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_its_ipv4() {
        let rates = Rates::new(1);
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(admitted(&rates, parse("2001:db8:1:2::1"), NOW), 10);
        assert!(!rates.admit(parse("2001:db8:1:2:ffff:ffff:ffff:ffff"), NOW));
        assert!(rates.admit(parse("2001:db8:1:3::1"), NOW));
        assert_eq!(admitted(&rates, parse("::ffff:10.0.0.9"), NOW), 10);
        assert!(!rates.admit(parse("10.0.0.9"), NOW));
    }

    #[test]
    fn the_machine_itself_and_a_rate_of_none_have_no_limit() {
        let rates = Rates::new(1);
        for own in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(admitted(&rates, own.parse().unwrap(), NOW), 10_000, "{own}");
        }
        assert_eq!(admitted(&Rates::new(0), client(1), NOW), 10_000);
    }

    #[test]
    fn a_flood_of_addresses_neither_grows_the_table_nor_touches_who_is_known() {
        let rates = Rates::bounded(2, 100);
        let known = || rates.table.lock().unwrap().known.len();
        assert!(rates.admit(client(0), NOW));
        // The first ones have places of their own, the others share a bucket of 20.
        let flood = (1..10_000).filter(|&n| rates.admit(client(n), NOW)).count();
        assert_eq!((flood, known()), (99 + 20, 100));
        assert_eq!(admitted(&rates, client(0), NOW), 19, "what it had left");
        // Who asked once is full again a second later and makes room; who is empty is not forgotten.
        let flood = (20_000..30_000).filter(|&n| rates.admit(client(n), NOW + 1)).count();
        assert_eq!((flood, known()), (99 + 2, 100));
        assert_eq!(admitted(&rates, client(0), NOW + 1), 2);
    }

    #[test]
    fn the_default_lets_a_node_restart_two_hundred_pods_at_once() {
        let rates = Rates::new(CLIENT_RATE_DEFAULT);
        // A challenge, evidence, and three keys each.
        assert!((0..200 * 5).all(|_| rates.admit(client(1), NOW)));
    }
}
