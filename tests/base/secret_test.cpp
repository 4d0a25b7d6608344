#include "base/secret.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/crypto.h"

using namespace isr;

namespace {

bool is_flag(const std::string& flags, const std::string& flag) {
  return (" " + flags + " ").find(" " + flag + " ") != std::string::npos;
}

/// The VmFlags of the mapping in which an address lies, as /proc/self/smaps has them.
std::string flags_at(const void* address) {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  std::ifstream smaps("/proc/self/smaps");
  bool is_here = false;
  for (std::string line; std::getline(smaps, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    char dash = 0;
    std::istringstream range(line);
    if (range >> std::hex >> begin >> dash >> end && dash == '-') is_here = begin <= wanted && wanted < end;
    if (is_here && line.starts_with("VmFlags:")) return line.substr(8);
  }
  return {};
}

bool may_lock() {
  if (secrets_are_locked()) return true;
  WARN("skipped: this process may not lock memory");
  return false;
}

/// Runs another test case of this program, which may lock nothing.
int run_without_locks(const std::string& test_case) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_MEMLOCK, &none);
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> capabilities{};
    ::syscall(SYS_capset, &header, capabilities.data());  // none, and with no-new-privs none come back
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::execl("/proc/self/exe", "base_test", test_case.c_str(), nullptr);
    ::_exit(99);
  }
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

void check_keys_work() {
  const SecretKey key = random_key();
  SecretKey copy = key;
  CHECK(copy == key);
  CHECK_FALSE(key.view().data() == copy.view().data());
  const Bytes text = to_bytes(as_bytes("text"));
  CHECK(open_box(copy, {}, seal_box(key, {}, text)) == text);
  const SigningKey pair = signing_key_from_seed(key);
  CHECK(verify_signature(pair.public_key, text, sign(pair, text).view()));
  SecretText password;
  for (int i = 0; i < 1000; ++i) password.append("0123456789");
  CHECK(password.size() == 10'000);
  CHECK(password.view().ends_with("789"));
}

}  // namespace

TEST_CASE("keys lie in memory that is neither swapped out nor dumped", "[base]") {
  if (!may_lock()) return;
  const SecretKey key = random_key();
  const SecretKey copied(Key{.value = {7}});
  const SecretText password("correct horse");
  const SecretBytes bytes(5000, 1);
  const SigningKey pair = signing_key_from_seed(key);
  for (const void* address :
       {static_cast<const void*>(key.view().data()), static_cast<const void*>(copied.view().data()),
        static_cast<const void*>(password.view().data()), static_cast<const void*>(bytes.data()),
        static_cast<const void*>(pair.seed.view().data())}) {
    const std::string flags = flags_at(address);
    CHECK(is_flag(flags, "lo"));
    CHECK(is_flag(flags, "dd"));
  }
}

TEST_CASE("keys work as before", "[base]") { check_keys_work(); }

TEST_CASE("the memory from which a key was copied or moved is overwritten", "[base]") {
  Key plain;
  plain.value.fill(0x5a);
  const SecretKey key(std::move(plain));
  CHECK(plain.is_zero());  // NOLINT(bugprone-use-after-move): this is what is tested
  CHECK(key.view()[31] == 0x5a);
  if (!may_lock()) return;
  const std::uint8_t* left = nullptr;
  {
    const SecretKey gone(key);
    left = gone.view().data();
  }
  // The heap keeps its pages, and writes two pointers of its own into a free block.
  CHECK(std::count(left + 2 * sizeof(void*), left + Key::kSize, 0x5a) == 0);
}

TEST_CASE("secrets that do not fit into the locked heap lie outside it", "[base]") {
  if (!may_lock()) return;
  std::vector<SecretKey> many;
  for (int i = 0; i < 40'000; ++i) many.emplace_back(Key{.value = {static_cast<std::uint8_t>(i)}});
  CHECK(is_flag(flags_at(many.front().view().data()), "lo"));
  CHECK_FALSE(is_flag(flags_at(many.back().view().data()), "lo"));
  CHECK(many.back() == Key{.value = {static_cast<std::uint8_t>(39'999)}});
  check_keys_work();  // OpenSSL's own keys have room
}

TEST_CASE("keys that cannot be locked", "[.][base]") {
  CHECK_FALSE(secrets_are_locked());
  CHECK_FALSE(is_flag(flags_at(random_key().view().data()), "lo"));
  check_keys_work();
}

TEST_CASE("keys that cannot be locked work as well", "[base]") {
  CHECK(run_without_locks("keys that cannot be locked") == 0);
}
