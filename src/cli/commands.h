#pragma once

/// Every command. `isr NAME` is in cmd_NAME.cpp, and `isr GROUP NAME` in cmd_GROUP_NAME.cpp. Only lock ls and lock
/// show, and config get, set and show, which share code, are in the files of their groups.
namespace isr {

class App;
class Command;

using RegisterCommand = void(App& app);
RegisterCommand register_login;
RegisterCommand register_logout;
RegisterCommand register_ls;
RegisterCommand register_resume;
RegisterCommand register_start;
RegisterCommand register_suspend;
RegisterCommand register_stop;
RegisterCommand register_poweroff;
RegisterCommand register_checkout;
RegisterCommand register_checkin;
RegisterCommand register_sync;
RegisterCommand register_discard;
RegisterCommand register_rollback;
RegisterCommand register_stat;
RegisterCommand register_console;
RegisterCommand register_view;
RegisterCommand register_log;
RegisterCommand register_branch;
RegisterCommand register_import;
RegisterCommand register_create;
RegisterCommand register_export;
RegisterCommand register_mount;
RegisterCommand register_umount;
RegisterCommand register_check;
RegisterCommand register_repo;
RegisterCommand register_passwd;
RegisterCommand register_lock;
RegisterCommand register_accept_older;
RegisterCommand register_serve;
RegisterCommand register_doctor;
RegisterCommand register_config;
RegisterCommand register_version;

/// In the order of `isr --help`.
inline constexpr RegisterCommand* kCommands[] = {
    register_login,    register_logout,   register_ls,       register_resume,       register_start,  register_suspend,
    register_stop,     register_poweroff, register_checkout, register_checkin,      register_sync,   register_discard,
    register_rollback, register_stat,     register_console,  register_view,         register_log,    register_branch,
    register_import,   register_create,   register_export,   register_mount,        register_umount, register_check,
    register_repo,     register_passwd,   register_lock,     register_accept_older, register_serve,  register_doctor,
    register_config,   register_version};

using RegisterSubcommand = void(Command& group);
RegisterSubcommand register_lock_break;
RegisterSubcommand register_repo_init;
RegisterSubcommand register_repo_add;
RegisterSubcommand register_repo_rm;
RegisterSubcommand register_repo_ls;
RegisterSubcommand register_repo_info;
RegisterSubcommand register_repo_check;

}  // namespace isr
