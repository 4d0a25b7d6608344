#include "host/config.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <cstdlib>

#include "base/file.h"
#include "base/sizes.h"
#include "base/whole_file.h"
#include "support/error_kind.h"

using namespace isr;
using test::kind_thrown;

namespace {

/// An environment variable for as long as this lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) { ::setenv(name, value.c_str(), 1); }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

struct Home {
  TempDirectory directory;
  Paths paths;
  fs::path file;

  Home() {
    paths.config = directory.path() / "config";
    paths.system_config_file = directory.path() / "etc.toml";
    file = paths.config / "config.toml";
    fs::create_directory(paths.config);
    fs::permissions(paths.config, fs::perms::owner_all);
  }
  void write(const std::string& text) const { replace_file(file, as_bytes(text)); }
  std::string text() const { return std::string(as_text(read_file(file, 1U << 20U))); }
  /// The message with which loading `text` fails; empty when it does not.
  std::string refusal(const std::string& text) const {
    write(text);
    try {
      Config::load(paths);
      return {};
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::kUsage);
      return error.what();
    }
  }
};

}  // namespace

TEST_CASE("without a file every setting is built in", "[host]") {
  const Home home;
  const Config config = Config::load(home.paths);
  CHECK(config.default_repository() == "home");
  CHECK(config.get_bytes("cache.limit") == 20ULL << 30U);
  CHECK(config.repositories().empty());
  for (const Setting& setting : config.settings()) CHECK(setting.origin == "built in");
  CHECK(kind_thrown([&] { config.get("cache.limits"); }) == ErrorKind::kUsage);
}

TEST_CASE("the only repository is the default one unless another is set", "[host]") {
  const Home home;
  home.write("[repo.office]\nurl = \"/srv/isr\"\nuser = \"alice\"\n");
  CHECK(Config::load(home.paths).default_repository() == "office");
  home.write("[repo.office]\nurl = \"/srv/isr\"\nuser = \"alice\"\n[repo.disk]\nurl = \"/d\"\nuser = \"alice\"\n");
  CHECK(Config::load(home.paths).default_repository() == "home");
  home.write("default_repo = \"disk\"\n[repo.office]\nurl = \"/srv/isr\"\nuser = \"alice\"\n");
  CHECK(Config::load(home.paths).default_repository() == "disk");
}

TEST_CASE("flags take precedence over the environment, the user's file, and /etc", "[host]") {
  const Home home;
  replace_file(home.paths.system_config_file, as_bytes("[cache]\nlimit = \"1G\"\nmin_free = \"2G\"\n"));
  home.write("[cache]\nlimit = \"3G\"\n");
  const auto origin_of = [](const Config& config, const std::string& key) {
    for (const Setting& setting : config.settings()) {
      if (setting.key == key) return setting.origin;
    }
    return std::string();
  };
  Config config = Config::load(home.paths);
  CHECK(config.get("cache.limit") == "3G");
  CHECK(config.get("cache.min_free") == "2G");
  CHECK(origin_of(config, "cache.limit") == home.file.string());
  CHECK(origin_of(config, "cache.min_free") == home.paths.system_config_file.string());
  const Variable variable("ISR_CACHE_LIMIT", "4G");
  config = Config::load(home.paths);
  CHECK(config.get("cache.limit") == "4G");
  CHECK(origin_of(config, "cache.limit") == "environment ISR_CACHE_LIMIT");
  config.override_with_flag("cache.limit", "5G");
  CHECK(config.get("cache.limit") == "5G");
  CHECK(origin_of(config, "cache.limit") == "flag");
}

TEST_CASE("an error in a configuration file names its line", "[host]") {
  const Home home;
  const std::string at = home.file.string() + ":";
  CHECK(home.refusal("").empty());
  CHECK(home.refusal("# nothing\n").empty());
  CHECK(home.refusal("[cache\n").starts_with(at + "1:"));
  CHECK(home.refusal("\n[cache]\nlimit = \"1G\"\nlimit = \"2G\"\n").starts_with(at + "4:"));
  CHECK(home.refusal("\ncolour = \"red\"\n").starts_with(at + "2:"));
  CHECK(home.refusal("[cache]\nlimit = \"much\"\n").starts_with(at + "2:"));
  CHECK(home.refusal("[cache]\nlimit = 1.5\n").starts_with(at + "2:"));
  CHECK(home.refusal("[read]\nunreachable = \"never\"\n").starts_with(at + "2:"));
  CHECK(home.refusal("[vm]\nmemory = \"none\"\n").starts_with(at + "2:"));
  CHECK(home.refusal("[repo.home]\nurl = \"/x\"\n").starts_with(at + "2:"));
  CHECK(home.refusal("[repo.home]\nurl = \"ftp://x\"\nuser = \"a\"\n").starts_with(at + "2:"));
  CHECK(home.refusal(std::string("\x7f\x45\x4c\x46\x00\x01\xff", 7)).starts_with(at + "1:"));
}

TEST_CASE("a password in a repository's URL is never repeated", "[host]") {
  const Home home;
  const std::string refusal = home.refusal("[repo.home]\nurl = \"http://u:sekret@host/\"\nuser = \"a\"\n");
  CHECK_FALSE(refusal.empty());
  CHECK(refusal.find("sekret") == std::string::npos);
}

TEST_CASE("a settings file that others can write, that is too large or not a file is refused", "[host]") {
  const Home home;
  home.write("offline = true\n");
  for (const mode_t mode : {0666U, 0620U, 0602U}) {
    REQUIRE(::chmod(home.file.c_str(), mode) == 0);
    CHECK(kind_thrown([&] { Config::load(home.paths); }) == ErrorKind::kUsage);
  }
  REQUIRE(::chmod(home.file.c_str(), 0644) == 0);
  CHECK(Config::load(home.paths).get_bool("offline"));
  fs::resize_file(home.file, 100U << 20U);
  CHECK(kind_thrown([&] { Config::load(home.paths); }) == ErrorKind::kUsage);
  fs::remove(home.file);
  fs::create_directory(home.file);
  CHECK(kind_thrown([&] { Config::load(home.paths); }) == ErrorKind::kUsage);
}

TEST_CASE("settings may live behind a symlink, and stay there when changed", "[host]") {
  const Home home;
  const fs::path real = home.directory.path() / "dotfiles.toml";
  replace_file(real, as_bytes("offline = true\n"));
  fs::create_symlink(real, home.file);
  Config config = Config::load(home.paths);
  CHECK(config.get_bool("offline"));
  config.set("offline", "false");
  CHECK(fs::is_symlink(home.file));
  CHECK_FALSE(Config::load(home.paths).get_bool("offline"));
}

TEST_CASE("changing a setting keeps everything else, including comments", "[host]") {
  const Home home;
  home.write(
      "# mine\noffline = true # \xc3\xa9t\xc3\xa9\n\n[cache] # big\nlimit = \"1G\" # small\n\n[vm]\naccelerator = "
      "\"tcg\"\n");
  Config config = Config::load(home.paths);
  config.set("cache.limit", "2G");
  config.set("cache.min_free", "3G");
  config.set("default_repo", "work");
  config.set("upload.limit", "5M");
  CHECK(home.text() ==
        "default_repo = \"work\"\n# mine\noffline = true # \xc3\xa9t\xc3\xa9\n\n[cache] # big\nmin_free = \"3G\"\n"
        "limit = \"2G\" # small\n\n[vm]\naccelerator = \"tcg\"\n\n[upload]\nlimit = \"5M\"\n");
  CHECK(Config::load(home.paths).get("upload.limit") == "5M");
  CHECK(kind_thrown([&] { config.set("cache.limit", "-1"); }) == ErrorKind::kUsage);
  CHECK(kind_thrown([&] { config.set("cache.nothing", "1"); }) == ErrorKind::kUsage);
}

TEST_CASE("a file of unusual form is refused, not damaged", "[host]") {
  const Home home;
  const std::string inline_table = "cache = { min_free = \"1G\" }\n";
  home.write(inline_table);
  Config config = Config::load(home.paths);
  CHECK(kind_thrown([&] { config.set("cache.limit", "2G"); }) == ErrorKind::kUsage);
  CHECK(home.text() == inline_table);
}

TEST_CASE("repositories are added and removed", "[host]") {
  const Home home;
  home.write("# first\n");
  Config config = Config::load(home.paths);
  config.add_repository({"home", "http://EXAMPLE.org:8080//", "alice"});
  config.add_repository({"disk", "/media/disk/", "bob"});
  config = Config::load(home.paths);
  REQUIRE(config.repositories().size() == 2);
  CHECK(config.repository("disk")->url == "/media/disk");
  CHECK(config.repository("home")->user == "alice");
  CHECK(kind_thrown([&] { config.add_repository({"home", "/x", "alice"}); }) == ErrorKind::kUsage);
  CHECK(kind_thrown([&] { config.add_repository({"a.b", "/x", "alice"}); }) == ErrorKind::kUsage);
  config.remove_repository("home");
  config = Config::load(home.paths);
  CHECK_FALSE(config.repository("home"));
  CHECK(config.repository("disk"));
  CHECK(kind_thrown([&] { config.remove_repository("home"); }) == ErrorKind::kNotFound);
}

TEST_CASE("sizes are read exactly, in binary units, or refused", "[host]") {
  CHECK(parse_size("0") == 0);
  CHECK(parse_size("4096") == 4096);
  CHECK(parse_size("10GB") == 10ULL << 30U);
  CHECK(parse_size("10GiB") == 10ULL << 30U);
  CHECK(parse_size("1.5G") == 3ULL << 29U);
  CHECK(parse_size("16T") == 16ULL << 40U);
  CHECK(parse_size("1k") == 1024);
  for (const char* bad : {"", "-1", " 8G", "8G ", "1e3", "1.5", "G", "0x10", "8 G", "9223372036854775808", "8E", "1.G",
                          "99999999999999999999", "1GG", "1Gb/s"}) {
    INFO(bad);
    CHECK(kind_thrown([&] { parse_size(bad); }) == ErrorKind::kUsage);
  }
}

TEST_CASE("sizes are shown in the largest unit that fits", "[host]") {
  CHECK(format_size(0) == "0 B");
  CHECK(format_size(1023) == "1023 B");
  CHECK(format_size(1024) == "1 KiB");
  CHECK(format_size(1536ULL << 20U) == "1.5 GiB");
  CHECK(format_size(214ULL << 20U) == "214 MiB");
  CHECK(format_size((1ULL << 30U) - 1) == "1 GiB");
}

TEST_CASE("directories come from the XDG variables, else from HOME", "[host]") {
  const TempDirectory directory;
  const Variable home("HOME", directory.path() / "my home");
  ::unsetenv("XDG_CONFIG_HOME");
  ::unsetenv("XDG_STATE_HOME");
  ::unsetenv("XDG_CACHE_HOME");
  CHECK(paths_from_environment().config == directory.path() / "my home/.config/isr");
  const Variable state("XDG_STATE_HOME", "/var/x");
  const Variable relative("XDG_CACHE_HOME", "not/absolute");
  CHECK(paths_from_environment().state == "/var/x/isr");
  CHECK(paths_from_environment().cache == directory.path() / "my home/.cache/isr");
  const Variable own("ISR_STATE_DIR", "/var/y");
  CHECK(paths_from_environment().state == "/var/y");
  {
    const Variable nowhere("HOME", "");
    CHECK(kind_thrown([] { paths_from_environment(); }) == ErrorKind::kUsage);
  }
}

TEST_CASE("a runtime directory that is absent, of another user or too long is refused", "[host]") {
  const TempDirectory directory;
  Paths paths;
  CHECK(kind_thrown([&] { runtime_directory(paths); }) == ErrorKind::kDaemon);
  paths.runtime = directory.path() / "gone" / "isr";
  CHECK(kind_thrown([&] { runtime_directory(paths); }) == ErrorKind::kDaemon);
  paths.runtime = directory.path() / "isr";
  CHECK(runtime_directory(paths) == paths.runtime);
  CHECK((fs::status(paths.runtime).permissions() & fs::perms::mask) == fs::perms::owner_all);
  fs::permissions(paths.runtime, fs::perms::all);
  CHECK(kind_thrown([&] { runtime_directory(paths); }) == ErrorKind::kDaemon);
  paths.runtime = directory.path() / std::string(100, 'x') / "isr";
  CHECK(kind_thrown([&] { runtime_directory(paths); }) == ErrorKind::kUsage);
}
