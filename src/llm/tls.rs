//! Which servers are trusted where a file names the certificates, and by which certificate the client is known.
//!
//! As with OpenSSL, a server's certificate is trusted if the file itself has it, even if it is marked as an authority's: `openssl
//! req -x509` makes such certificates. Without a file, reqwest's own verifier decides, by the system's certificates.

use std::env;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};

use super::error::Error;
use super::route::Route;

/// Names the file with the certificates that are trusted instead of the system's.
const CERTIFICATE_FILE: &str = "SSL_CERT_FILE";

/// The certificates of the file that the route or the environment names; `None` if neither does.
///
/// # Errors
/// [`Error::InvalidArgument`] or [`Error::Connection`] if the file has no certificates.
pub(super) fn named_certificates(route: &Route) -> Result<Option<Vec<CertificateDer<'static>>>, Error> {
    if let Some(file) = &route.ca_certs {
        return match certificates(file) {
            Ok(certificates) => Ok(Some(certificates)),
            Err(problem) => Err(Error::invalid(
                "ca_certs",
                format!("{}: {problem}", file.display()),
            )),
        };
    }
    let Some(file) = env::var_os(CERTIFICATE_FILE) else {
        return Ok(None);
    };
    certificates(file.as_ref())
        .map(Some)
        .map_err(|problem| Error::Connection {
            detail: format!("{CERTIFICATE_FILE} is {}: {problem}", file.display()),
            os_error: None,
        })
}

fn certificates(file: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_certs_from_paths(Some(file), None);
    if !found.certs.is_empty() {
        return Ok(found.certs);
    }
    let problem = found.errors.first();
    Err(problem.map_or_else(|| "no certificate is in it".to_owned(), ToString::to_string))
}

/// Trusts these certificates, and presents the client's.
///
/// # Errors
/// [`Error::InvalidArgument`] if the client's certificate can't be used.
pub(super) fn config(
    trusted: Vec<CertificateDer<'static>>,
    client_pem: Option<&[u8]>,
    http2: bool,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let failed = |error: &dyn std::fmt::Display| Error::Connection {
        detail: format!("TLS can't be set up: {error}"),
        os_error: None,
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| failed(&error))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { verifier, trusted }));
    let mut config = match client_pem {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let refuse = |error: &dyn std::fmt::Display| Error::invalid("client_cert", error.to_string());
            let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
            let chain = chain.map_err(|error| refuse(&error))?;
            let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| refuse(&error))?;
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| refuse(&error))?
        }
    };
    config.alpn_protocols = if http2 {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    Ok(config)
}

/// rustls' own verifier, and besides, a server that presents a trusted certificate itself.
#[derive(Debug)]
struct Verifier {
    verifier: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self
            .verifier
            .verify_server_cert(certificate, intermediates, name, stapled, now);
        match verified {
            // webpki checks the dates before it checks this.
            Err(error) if is_an_authoritys(&error) && self.trusted.contains(certificate) => {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Whether the only thing wrong with a certificate is that it is marked as an authority's.
fn is_an_authoritys(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(error))) = error else {
        return false;
    };
    matches!(error.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}
