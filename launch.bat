@echo off
rem Starts APT Studio. Finds a Python and hands over to tools\launch.py, where everything else happens.
setlocal
chcp 65001 >nul
set "PYTHONUTF8=1"
rem A python.exe in the folder it is started from must not be run, nor an ensurepip.py be imported there.
set "NoDefaultCurrentDirectoryInExePath=1"
set "python="
for %%v in (3.13 3.12 3.11) do if not defined python call :try py -%%v
if not defined python call :try python
if not defined python call :try python3
if defined python goto found
echo APT Studio: needs Python 3.11, 3.12 or 3.13 and found none; install one from python.org, then start again. 1>&2
set "code=1"
goto end

:found
%python% "%~dp0tools\launch.py" %*
set "code=%errorlevel%"

:end
rem Without arguments it was started by a double-click: the window would close before anyone could read what went wrong.
if not "%code%"=="0" if not "%code%"=="130" if "%~1"=="" pause
exit /b %code%

:try
%* -I -c "import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))" >nul 2>&1
if %errorlevel%==0 set "python=%*"
exit /b 0
