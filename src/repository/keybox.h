#pragma once

#include <functional>
#include <string>

#include "base/crypto.h"
#include "repository/blob_store.h"

namespace isr {

/// Everything that a user's passphrase opens.
struct UserKeys {
  std::string user;     ///< name in the repository
  SigningKey signing;   ///< Ed25519: heads, locks
  Key exchange_secret;  ///< X25519, for envelopes of appliances
  Key domain_secret;    ///< dedup domain of all the user's parcels
  Key profile_key;      ///< epoch key of the profile chain
};
UserKeys generate_user_keys(const std::string& user);
/// For the kernel keyring and for pipes between our own processes.
Bytes serialise_user_keys(const UserKeys& keys);
UserKeys parse_user_keys(ByteView bytes);

/// The keybox blob, users/USER/keybox/%016d: JSON, docs/formats/keybox.md. A
/// random key seals UserKeys; slots seal that key, one under the passphrase
/// (scrypt), one under the printable recovery key.
Bytes make_keybox(const UserKeys& keys, std::string_view passphrase, const Key& recovery_key,
                  const ScryptParams& params = {});
/// Error{kDenied} "password wrong" when no slot opens or the user differs;
/// {kCorrupt} for a damaged box or forbidden scrypt parameters, in well under 100 ms.
UserKeys open_keybox(ByteView blob, const std::string& user, std::string_view passphrase);
UserKeys open_keybox_with_recovery_key(ByteView blob, const std::string& user, const Key& recovery_key);

/// "isr-recovery-…" in groups with a checksum that catches typing errors.
std::string format_recovery_key(const Key& key);
/// Error{kUsage} on a typing error.
Key parse_recovery_key(std::string_view text);

/// The newest keybox of a user: nullopt when the repository has no such user.
std::optional<Bytes> read_keybox(BlobStore& store, const std::string& user);
/// Puts the first keybox; Error{kUsage} when the user exists.
void put_first_keybox(BlobStore& store, const std::string& user, ByteView blob);
/// Puts the keybox that follows the newest (a changed password). Error{kNotFound}
/// when there is no such user, {kForked} when another host was first.
void put_next_keybox(BlobStore& store, const std::string& user, ByteView blob);

/// User and host names: 1..64 of [a-z0-9._-], beginning with a letter or digit.
void check_user_name(std::string_view user);

}  // namespace isr
