@echo off
rem Starts APT Studio. Finds a Python and hands over to tools\launch.py, where everything else happens.
setlocal
chcp 65001 >nul
set "PYTHONUTF8=1"
set "check=import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))"
for %%p in ("py -3.13" "py -3.12" "py -3.11" "python" "python3") do (
    %%~p -c "%check%" >nul 2>&1 && set "python=%%~p" && goto found
)
echo APT Studio: needs Python 3.11, 3.12 or 3.13 and found none; install one from python.org, then start again. 1>&2
set "code=1"
goto end

:found
%python% "%~dp0tools\launch.py" %*
set "code=%errorlevel%"

:end
rem Started by a double-click the window would close before anyone could read what went wrong.
set "started=%cmdcmdline:"=%"
if not "%code%"=="0" if not "%started:launch.bat=%"=="%started%" pause
exit /b %code%
