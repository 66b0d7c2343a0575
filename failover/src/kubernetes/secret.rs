//! `baton-failover make-secret`: the passwords of a release, made once.
//!
//! Promises: a key that is there is never changed; two at a time end with one password a key; nothing that is made is shown.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client, Config, Error};
use rand::Rng;
use rand::distr::Alphanumeric;

use super::api::{access, asked};

/// Characters of a password: 190 bits.
const LENGTH: usize = 32;
/// How often is begun anew because somebody else wrote in between.
const TRIES: u32 = 5;

/// Arguments of `make-secret`.
#[derive(Debug, Clone, clap::Args)]
pub struct SecretArgs {
    /// The Secret's namespace.
    #[arg(long)]
    pub namespace: String,
    /// Its name.
    #[arg(long)]
    pub name: String,
    /// A key that it must have; repeat it.
    #[arg(long = "key", value_name = "KEY", required = true)]
    pub keys: Vec<String>,
}

/// Makes it with the pod's service account.
///
/// # Errors
/// The API can't be used, or refuses.
pub fn run(args: &SecretArgs) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start the runtime")?;
    let made = runtime.block_on(async { make(access()?, args).await })?;
    match made.as_slice() {
        [] => println!("Secret {} has all keys already", args.name),
        keys => println!("Secret {}: made {}", args.name, keys.join(", ")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the keys that are missing; gives their names.
///
/// # Errors
/// As [`run`].
pub async fn make(access: Config, args: &SecretArgs) -> anyhow::Result<Vec<String>> {
    let client = Client::try_from(access).context("the Kubernetes API can't be used")?;
    let secrets: Api<Secret> = Api::namespaced(client, &args.namespace);
    let (name, params) = (args.name.as_str(), PostParams::default());
    for _ in 0..TRIES {
        let there = asked(&format!("get Secret {name}"), secrets.get_opt(name)).await?;
        let created = there.is_none();
        let mut secret = there.unwrap_or_else(|| new(args));
        let missing = fill(secret.data.get_or_insert_default(), &args.keys);
        if missing.is_empty() {
            return Ok(missing);
        }
        let written = if created {
            secrets.create(&params, &secret).await
        } else {
            // With the resource version that was read: keys of somebody else are not overwritten.
            secrets.replace(name, &params, &secret).await
        };
        match written {
            Ok(_) => return Ok(missing),
            Err(Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(anyhow::Error::new(error).context(format!("write Secret {name}"))),
        }
    }
    bail!("Secret {name} was changed by others between reading and writing, {TRIES} times")
}

fn new(args: &SecretArgs) -> Secret {
    let labels = [("app.kubernetes.io/part-of", "baton"), ("app.kubernetes.io/managed-by", "baton-failover")];
    Secret {
        metadata: ObjectMeta {
            name: Some(args.name.clone()),
            namespace: Some(args.namespace.clone()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// Adds what is missing; gives the keys that were.
fn fill(data: &mut BTreeMap<String, ByteString>, keys: &[String]) -> Vec<String> {
    let missing: Vec<String> = keys.iter().filter(|key| !data.contains_key(*key)).cloned().collect();
    for key in &missing {
        // The thread's generator is one for secrets: ChaCha, seeded by the system.
        let password: Vec<u8> = rand::rng().sample_iter(Alphanumeric).take(LENGTH).collect();
        data.insert(key.clone(), ByteString(password));
    }
    missing
}
