#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "account/account.h"
#include "account/open_account.h"
#include "cli/names.h"
#include "cli/output.h"
#include "host/config.h"
#include "repository/store_waits.h"

namespace isr {

/// Flags that every command takes, before or after its name.
struct GlobalFlags {
  bool quiet = false;
  int verbose = 0;
  bool json = false;
  bool offline = false;  ///< or offline = true in the configuration
  bool yes = false;
  bool no_input = false;
  std::string repo;
  std::string config_file;
  std::string color = "auto";     ///< auto, always, never
  std::string progress = "auto";  ///< auto, bar, plain, json, none
  std::string password_file;      ///< "-": stdin
  std::string password_command;
  std::string bwlimit;
  std::string log_level;
  std::string log_file;
};

/// A parcel that a command was asked for, with the account that it is in.
struct OpenParcel {
  Account account;
  ParcelEntry entry;
  VersionSelector version;  ///< what followed '@'
};

/// For commands that show what this host knows: no server is waited for longer than 2 s.
StoreOptions impatient();

/// What a running command has. Nothing is read from disk or network before it
/// is asked for, so that help, version and doctor work where all is broken.
class CommandContext {
 public:
  CommandContext(GlobalFlags global_flags, std::function<std::stop_token()> stop);

  const GlobalFlags flags;
  const Output out;
  /// Requested by the first Ctrl-C; end with Error{kCancelled}, exit 130. A command
  /// that never calls this is ended by the first Ctrl-C where it is.
  std::stop_token stop() const { return stop_(); }
  /// Throws Error{kCancelled} once stop was requested.
  void check_stop() const;

  const Paths& paths();
  Config& config();
  bool offline();
  /// The entry called `name`; "" means --repo, else the default one.
  /// Error{kNotFound} with the names that there are.
  RepositoryEntry repository(const std::string& name = {});
  /// Opens it, asking for the password where that is needed.
  Account open_account(const std::string& repository_name = {});
  /// With time-outs of its own; `local` as if --offline were given.
  Account open_account(const std::string& repository_name, StoreOptions store, bool local);
  /// "[REPO:]PARCEL[@VERSION]". Error{kUsage}, {kNotFound}.
  OpenParcel open_parcel(const std::string& name);
  /// The same where a version makes no sense: Error{kUsage} when there is one.
  OpenParcel open_parcel_without_version(const std::string& name);
  /// The same for what is answered by this host alone. The repository is asked only about a parcel or an account that
  /// this host does not know.
  OpenParcel open_local_parcel(const std::string& name);

 private:
  void tell_of_waits(const std::string& repository);

  std::function<std::stop_token()> stop_;
  std::optional<Paths> paths_;
  std::optional<Config> config_;
  std::shared_ptr<StoreWaits> waits_ = std::make_shared<StoreWaits>();
  std::jthread waits_teller_;  ///< last: it uses the rest
};

}  // namespace isr
