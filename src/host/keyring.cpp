// The user keyring (_uid.UID) lives as long as the user has a process, every process of the user finds it whatever its
// session, and it never reaches a disk. By default only the possessor may use a key, and a process of another login
// session does not possess it; so the permissions are set.
#include "host/keyring.h"

#include <fmt/format.h>
#include <keyutils.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <system_error>

#include "base/error.h"
#include "base/handle.h"

namespace isr {
namespace {

constexpr const char* kType = "user";
constexpr key_perm_t kPermissions = KEY_POS_ALL | KEY_USR_ALL;
constexpr long kMaxSecret = 32767;  // limit for a key of type "user"

[[noreturn]] void fail(std::string_view what) {
  throw Error(ErrorKind::kFailed,
              fmt::format("the kernel's keyring: {}: {}", what, std::generic_category().message(errno)),
              {"without the keyring every command asks for the password; see --password-file and --password-command"});
}

key_serial_t find_key(const std::string& label) {
  const long found = ::keyctl_search(KEY_SPEC_USER_KEYRING, kType, label.c_str(), 0);
  return found < 0 ? 0 : static_cast<key_serial_t>(found);
}

}  // namespace

void keyring_store(const std::string& label, ByteView secret, std::chrono::seconds ttl) {
  const key_serial_t key = ::add_key(kType, label.c_str(), secret.data(), secret.size(), KEY_SPEC_USER_KEYRING);
  if (key < 0) fail("cannot keep a key");
  if (::keyctl_setperm(key, kPermissions) != 0 || ::keyctl_set_timeout(key, static_cast<unsigned>(ttl.count())) != 0) {
    const int cause = errno;
    ::keyctl_unlink(key, KEY_SPEC_USER_KEYRING);
    errno = cause;
    fail("cannot keep a key for that long");
  }
}

std::optional<SecretBytes> keyring_find(const std::string& label) {
  const key_serial_t key = find_key(label);
  if (key == 0) return std::nullopt;
  SecretBytes secret(static_cast<std::size_t>(kMaxSecret));
  const long size = ::keyctl_read(key, reinterpret_cast<char*>(secret.data()), secret.size());
  // The key may expire between the two calls. It is then absent; that is not a failure.
  if (size < 0 || size > kMaxSecret) return std::nullopt;
  secret.resize(static_cast<std::size_t>(size));
  return secret;
}

bool keyring_forget(const std::string& label) {
  const key_serial_t key = find_key(label);
  if (key == 0) return false;
  // invalidate destroys the payload at once; unlink alone leaves that to a garbage collector.
  if (::keyctl_invalidate(key) != 0 && ::keyctl_unlink(key, KEY_SPEC_USER_KEYRING) != 0) fail("cannot forget a key");
  return true;
}

std::size_t keyring_forget_all(std::string_view label_prefix) {
  void* raw = nullptr;
  const long size = ::keyctl_read_alloc(KEY_SPEC_USER_KEYRING, &raw);
  if (size < 0) return 0;
  const std::unique_ptr<void, FreeWith<std::free>> owner(raw);
  std::size_t forgotten = 0;
  for (std::size_t at = 0; at + sizeof(key_serial_t) <= static_cast<std::size_t>(size); at += sizeof(key_serial_t)) {
    key_serial_t key = 0;
    std::memcpy(&key, static_cast<const char*>(raw) + at, sizeof key);
    std::array<char, 512> text{};
    if (::keyctl_describe(key, text.data(), text.size()) < 0) continue;  // expired meanwhile
    // "type;uid;gid;perm;description"
    std::string_view description(text.data());
    if (!description.starts_with("user;")) continue;
    description.remove_prefix(description.rfind(';') + 1);
    if (description.starts_with(label_prefix) && keyring_forget(std::string(description))) ++forgotten;
  }
  return forgotten;
}

}  // namespace isr
