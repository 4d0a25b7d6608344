// A password passes through pipes, files and the terminal, never through an argument or a variable, because other
// processes can read those. The output of a password command is used only after the command has succeeded, so that a
// failing one does not give half a password.
#include "cli/password.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "account/open_account.h"
#include "base/file.h"
#include "base/spawn.h"
#include "cli/terminal.h"

extern char** environ;  // NOLINT: POSIX declares it nowhere

namespace isr {
namespace {

[[noreturn]] void refuse_long() {
  throw Error(ErrorKind::kUsage, fmt::format("the password is longer than {} bytes", kMaxPassword));
}

SecretText read_stream(int fd, const std::string& name) {
  SecretText text;
  std::vector<char, LockedAllocator<char>> buffer(4096);
  for (;;) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EBADF)
      throw Error(ErrorKind::kDenied, fmt::format("{} is closed, so there is no password", name));
    if (n < 0) throw_errno(name, errno);
    if (n == 0) return text;
    text.append({buffer.data(), static_cast<std::size_t>(n)});
    if (text.size() > kMaxPassword + 2) refuse_long();
  }
}

/// Removes one line end and refuses a password that no keybox can have.
SecretText checked(SecretText text) {
  if (text.view().ends_with('\n')) text.pop_back();
  if (text.view().ends_with('\r')) text.pop_back();
  if (text.empty()) throw Error(ErrorKind::kUsage, "the password is empty");
  if (text.size() > kMaxPassword) refuse_long();
  return text;
}

SecretText from_file(const std::string& path) {
  if (path == "-") {
    SecretText text = read_stream(STDIN_FILENO, "stdin");
    // An empty line is an empty password. No input at all means that stdin is closed or empty.
    if (text.empty()) throw Error(ErrorKind::kDenied, "stdin is closed or empty, so there is no password");
    return text;
  }
  // open_file() would refuse /dev/fd/N and symlinks into a secret store, which are usual here.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!fd) {
    throw Error(ErrorKind::kDenied, fmt::format("the file {}: {}", path, std::generic_category().message(errno)));
  }
  return read_stream(fd.get(), path);
}

SecretText from_command(const std::string& command) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("a pipe", errno);
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  SpawnOptions options;
  options.descriptors = {{writing.get(), STDOUT_FILENO}};
  const pid_t pid = spawn("/bin/sh", {"sh", "-c", command}, options);
  writing.reset();
  SecretText printed;
  std::exception_ptr reading_failed;
  try {
    printed = read_stream(reading.get(), "the password command");
  } catch (const Error&) {
    reading_failed = std::current_exception();
    ::kill(pid, SIGKILL);
  }
  const int status = await_child(pid);
  if (reading_failed) std::rethrow_exception(reading_failed);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw Error(ErrorKind::kDenied, "the password command failed",
                {"run it by hand to see why; it must print the password and exit 0"});
  }
  return printed;
}

/// nullopt when no flag, variable or setting names a source of the password.
std::optional<SecretText> given_password(CommandContext& context) {
  // A flag takes precedence over the other one's variable or setting.
  const bool command_flag = !context.flags.password_command.empty();
  const std::string file = command_flag ? "" : context.config().get("password.file");
  if (!file.empty()) return checked(from_file(file));
  const std::string command = context.config().get("password.command");
  if (!command.empty()) return checked(from_command(command));
  return std::nullopt;
}

SecretText ask_for(CommandContext& context, const std::string& what, const std::string& prompt,
                   const std::string& hint) {
  std::optional<SecretText> answer;
  if (!context.flags.no_input) answer = ask_terminal(printable(prompt), Echo::kHidden);
  if (!answer) {
    throw Error(ErrorKind::kDenied,
                fmt::format("the {} is needed, but no question can be asked here (no terminal, or --no-input)", what),
                {hint});
  }
  if (answer->empty()) throw Error(ErrorKind::kUsage, fmt::format("the {} is empty", what));
  return std::move(*answer);
}

SecretText ask(CommandContext& context, const std::string& prompt) {
  return ask_for(context, "password", prompt,
                 "--password-file FILE (- is stdin), --password-command COMMAND, or isr login first");
}

}  // namespace

bool password_is_given(CommandContext& context) {
  return !context.config().get("password.file").empty() || !context.config().get("password.command").empty();
}

PasswordSource password_source(CommandContext& context, const std::string& prompt) {
  return [&context, prompt] {
    if (auto given = given_password(context)) return std::move(*given);
    return ask(context, prompt);
  };
}

SecretText new_password(CommandContext& context, const std::string& prompt) {
  if (auto given = given_password(context)) return std::move(*given);
  const SecretText first = ask(context, prompt);
  if (ask(context, "Again: ").view() != first.view()) throw Error(ErrorKind::kUsage, "the two passwords differ");
  return first;
}

SecretText replacing_password(CommandContext& context, const std::string& file, const std::string& prompt) {
  if (!file.empty()) return checked(from_file(file));
  const auto ask_new = [&](const std::string& text) {
    return ask_for(context, "new password", text, "--new-password-file FILE (- is stdin)");
  };
  const SecretText first = ask_new(prompt);
  if (ask_new("Again: ").view() != first.view()) throw Error(ErrorKind::kUsage, "the two passwords differ");
  return first;
}

SecretKey recovery_key(CommandContext& context, const std::string& file) {
  if (!file.empty()) return parse_recovery_key(from_file(file));
  return parse_recovery_key(
      ask_for(context, "recovery key", "Recovery key (isr-recovery-...): ", "--recovery-file FILE (- is stdin)"));
}

}  // namespace isr
