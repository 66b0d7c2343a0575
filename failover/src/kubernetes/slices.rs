//! EndpointSlices as they are to be, and whether one may be written over what is there. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Annotation with the epoch that a slice was written for.
pub(super) const EPOCH: &str = "baton/epoch";
/// Annotation with the term of the leader that wrote it.
pub(super) const TERM: &str = "baton/term";
/// Label with the name of a slice's Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// Label with who writes a slice: keeps Kubernetes' own controllers away from it.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// What a slice is written for. A newer epoch wins; within an epoch, the newer leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rank {
    /// The state's epoch.
    pub epoch: u64,
    /// The leader's term.
    pub term: u64,
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} (term {})", self.epoch, self.term)
    }
}

/// A server as it stands in a slice.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Where it is reached.
    pub(super) ip: IpAddr,
    /// Its pod, where it is one.
    pub(super) pod: Option<Pod>,
}

/// What is to be done with a slice.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// It is as it should be.
    Keep,
    /// There is none.
    Create(Box<EndpointSlice>),
    /// This one, over the one that was read.
    Replace(Box<EndpointSlice>),
    /// It was written for something newer.
    Newer(Rank),
}

/// Compares the slice of a Service, as it was read, with what is wanted.
pub(super) fn verdict(
    service: &Service,
    there: Option<&EndpointSlice>,
    rank: Rank,
    targets: &[Target],
    port: u16,
) -> Verdict {
    let Some(there) = there else { return Verdict::Create(Box::new(slice(service, None, rank, targets, port))) };
    let written = rank_of(there);
    if written > rank {
        return Verdict::Newer(written);
    }
    let slice = slice(service, Some(there), rank, targets, port);
    if written == rank && slice.endpoints == there.endpoints && slice.ports == there.ports {
        return Verdict::Keep;
    }
    Verdict::Replace(Box::new(slice))
}

/// What a slice bears; zero if nothing (readable).
pub(super) fn rank_of(slice: &EndpointSlice) -> Rank {
    let number = |key: &str| {
        let text = slice.metadata.annotations.as_ref()?.get(key)?;
        text.parse().ok()
    };
    Rank { epoch: number(EPOCH).unwrap_or(0), term: number(TERM).unwrap_or(0) }
}

/// Addresses in a slice, in words.
pub(super) fn addresses(slice: Option<&EndpointSlice>) -> Vec<String> {
    slice
        .map(|slice| slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect())
        .unwrap_or_default()
}

/// `IPv4` or `IPv6`: the type of a slice can't be changed, so it is that of the one that is there, else the Service's.
pub(super) fn family(service: &Service, there: Option<&EndpointSlice>) -> String {
    let of_service = || service.spec.as_ref()?.ip_families.as_ref()?.first().cloned();
    there.map(|slice| slice.address_type.clone()).or_else(of_service).unwrap_or_else(|| "IPv4".to_owned())
}

fn slice(service: &Service, there: Option<&EndpointSlice>, rank: Rank, targets: &[Target], port: u16) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), "baton".to_owned());
    let annotations: BTreeMap<String, String> =
        [(EPOCH, rank.epoch), (TERM, rank.term)].map(|(key, number)| (key.to_owned(), number.to_string())).into();
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: name.clone(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let of_service = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()?.first()?.name.clone());
    EndpointSlice {
        address_type: family(service, there),
        endpoints: targets.iter().map(endpoint).collect(),
        ports: Some(vec![EndpointPort {
            name: of_service,
            port: Some(i32::from(port)),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
        metadata: ObjectMeta {
            name: Some(name),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            // What was read, and nothing newer, is replaced.
            resource_version: there.and_then(|slice| slice.metadata.resource_version.clone()),
            uid: there.and_then(|slice| slice.metadata.uid.clone()),
            ..ObjectMeta::default()
        },
    }
}

fn endpoint(target: &Target) -> Endpoint {
    let pod = target.pod.as_ref();
    Endpoint {
        addresses: vec![target.ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
        node_name: pod.and_then(|pod| pod.spec.as_ref()?.node_name.clone()),
        target_ref: pod.map(|pod| ObjectReference {
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};

    use super::*;

    fn service() -> Service {
        let metadata = ObjectMeta {
            name: Some("shop-primary".to_owned()),
            namespace: Some("prod".to_owned()),
            uid: Some("uid-1".to_owned()),
            ..ObjectMeta::default()
        };
        let port = ServicePort { name: Some("mysql".to_owned()), port: 3306, ..ServicePort::default() };
        Service {
            metadata,
            spec: Some(ServiceSpec { ports: Some(vec![port]), ..ServiceSpec::default() }),
            ..Service::default()
        }
    }

    fn target(ip: &str) -> Target {
        Target { ip: ip.parse().unwrap(), pod: None }
    }

    fn written(rank: Rank, targets: &[Target]) -> EndpointSlice {
        let Verdict::Create(mut slice) = verdict(&service(), None, rank, targets, 3306) else { panic!("not created") };
        slice.metadata.resource_version = Some("41".to_owned());
        *slice
    }

    const OLD: Rank = Rank { epoch: 7, term: 12 };

    #[test]
    fn a_new_slice_belongs_to_the_service_and_names_its_epoch() {
        let slice = written(OLD, &[target("10.1.0.4")]);
        assert_eq!(slice.metadata.labels.as_ref().unwrap()[SERVICE], "shop-primary");
        assert_eq!(slice.metadata.owner_references.as_ref().unwrap()[0].uid, "uid-1");
        assert_eq!(rank_of(&slice), OLD);
        assert_eq!(addresses(Some(&slice)), ["10.1.0.4"]);
        assert_eq!(slice.ports.unwrap()[0].name.as_deref(), Some("mysql"));
    }

    #[test]
    fn the_same_again_is_left_alone_and_a_change_names_what_it_replaces() {
        let there = written(OLD, &[target("10.1.0.4")]);
        assert_eq!(verdict(&service(), Some(&there), OLD, &[target("10.1.0.4")], 3306), Verdict::Keep);
        let Verdict::Replace(slice) = verdict(&service(), Some(&there), OLD, &[target("10.1.0.5")], 3306) else {
            panic!("not replaced")
        };
        assert_eq!(slice.metadata.resource_version.as_deref(), Some("41"));
    }

    #[test]
    fn fencing_empties_the_slice() {
        let there = written(OLD, &[target("10.1.0.4")]);
        let Verdict::Replace(slice) = verdict(&service(), Some(&there), Rank { epoch: 8, ..OLD }, &[], 3306) else {
            panic!("not replaced")
        };
        assert!(slice.endpoints.is_empty());
    }

    #[test]
    fn an_older_epoch_or_an_older_leader_of_the_same_epoch_changes_nothing() {
        let there = written(OLD, &[target("10.1.0.4")]);
        for late in [Rank { epoch: 6, term: 12 }, Rank { epoch: 7, term: 11 }, Rank { epoch: 6, term: 99 }] {
            assert_eq!(verdict(&service(), Some(&there), late, &[target("10.1.0.9")], 3306), Verdict::Newer(OLD));
        }
    }

    #[test]
    fn a_slice_that_bears_nothing_readable_is_older_than_everything() {
        let mut there = written(OLD, &[]);
        there.metadata.annotations = Some([(EPOCH.to_owned(), "soon".to_owned())].into());
        assert_eq!(rank_of(&there), Rank::default());
        assert!(matches!(verdict(&service(), Some(&there), OLD, &[], 3306), Verdict::Replace(_)));
    }

    #[test]
    fn the_family_is_the_slices_own_then_the_services() {
        let mut service = service();
        service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv6".to_owned()]);
        assert_eq!(family(&service, None), "IPv6");
        assert_eq!(family(&service, Some(&written(OLD, &[]))), "IPv4");
    }
}
