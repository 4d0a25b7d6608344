#pragma once

#include <functional>
#include <string>
#include <variant>

#include "base/crypto.h"
#include "repository/blob_store.h"

namespace isr {

/// All keys that a user's passphrase opens.
struct UserKeys {
  std::string user;           ///< name in the repository
  SigningKey signing;         ///< Ed25519: heads, locks
  SecretKey exchange_secret;  ///< X25519, for envelopes of appliances
  SecretKey domain_secret;    ///< dedup domain of all the user's parcels
  SecretKey profile_key;      ///< epoch key of the profile chain
};
UserKeys generate_user_keys(const std::string& user);
/// For the kernel keyring and for pipes between our own processes.
SecretBytes serialise_user_keys(const UserKeys& keys);
UserKeys parse_user_keys(ByteView bytes);

/// Makes the keybox blob, users/USER/keybox/%016d: JSON, docs/formats/keybox.md. A random box key seals UserKeys. Two
/// slots seal that box key, one under the passphrase (scrypt), one under the printable recovery key.
Bytes make_keybox(const UserKeys& keys, std::string_view passphrase, const Key& recovery_key,
                  const ScryptParams& params = {});
/// The secret that opens a keybox: the passphrase, or the recovery key.
using KeyboxSecret = std::variant<SecretText, SecretKey>;
/// Error{kDenied} "password wrong" when its slot does not open or the user differs;
/// {kCorrupt} for a damaged box or forbidden scrypt parameters, in well under 100 ms.
UserKeys open_keybox(ByteView blob, const std::string& user, const KeyboxSecret& secret);
/// Seals the same keys under another passphrase. The recovery key stays valid. Errors as open_keybox(), and {kUsage}
/// for an empty new passphrase. Anyone who kept the old blob can still guess at the old passphrase.
Bytes with_new_passphrase(ByteView blob, const std::string& user, const KeyboxSecret& secret,
                          std::string_view new_passphrase, const ScryptParams& params = {});

/// "isr-recovery-…" in groups with a checksum that catches typing errors.
std::string format_recovery_key(const Key& key);
/// Error{kUsage} when the key was mistyped.
SecretKey parse_recovery_key(std::string_view text);

/// Keybox n of a user. The one with the greatest n is valid.
struct StoredKeybox {
  std::uint64_t n = 0;
  Bytes blob;
};
/// The newest keybox of a user: nullopt when the repository has no such user.
std::optional<StoredKeybox> read_keybox(BlobStore& store, const std::string& user);
/// The greatest number that is in use, by a keybox of the user or by junk; 0 when there is none.
std::uint64_t newest_keybox_number(BlobStore& store, const std::string& user);
/// Puts the first keybox; Error{kUsage} when the user exists.
void put_first_keybox(BlobStore& store, const std::string& user, ByteView blob);
/// Puts the keybox after number `previous`, the newest (for a changed password). Error{kForked} when another one was
/// put there first, {kCorrupt} when no number is left. Nothing is changed in either case.
void put_next_keybox(BlobStore& store, const std::string& user, std::uint64_t previous, ByteView blob);

/// User and host names: 1..64 of [a-z0-9._-], beginning with a letter or digit.
void check_user_name(std::string_view user);

}  // namespace isr
