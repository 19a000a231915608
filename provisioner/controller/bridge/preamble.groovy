/*
 * The bridge of the provisioner: what a sidecar needs inside a running Jenkins controller, without a plugin.
 * It answers JSON under /provisioner-bridge/; docs/bridge-protocol.md says what.
 *
 * Put in through the script console, or dropped into init.groovy.d by an administrator. Everything that
 * differs between the two is the one constant below: base64 of JSON, filled in by the sidecar, never code.
 *
 * Rules in here: nothing thrown into Jenkins' own paths, nothing slow and no lock of ours held inside the
 * queue lock, and no class of this script in anything that Jenkins saves.
 */
import groovy.json.JsonOutput
import groovy.json.JsonSlurperClassic
import groovy.transform.CompileDynamic
import groovy.transform.CompileStatic
import hudson.AbortException
import hudson.ExtensionList
import hudson.Launcher
import hudson.console.ConsoleLogFilter
import hudson.model.AbstractBuild
import hudson.model.AbstractProject
import hudson.model.Action
import hudson.model.BuildListener
import hudson.model.BuildableItemWithBuildWrappers
import hudson.model.Cause
import hudson.model.Computer
import hudson.model.Executor
import hudson.model.ExecutorListener
import hudson.model.Failure
import hudson.model.Item
import hudson.model.Job
import hudson.model.Label
import hudson.model.LabelFinder
import hudson.model.Node
import hudson.model.OneOffExecutor
import hudson.model.ParameterValue
import hudson.model.ParametersAction
import hudson.model.Queue
import hudson.model.Result
import hudson.model.RootAction
import hudson.model.Run
import hudson.model.TaskListener
import hudson.model.TopLevelItem
import hudson.model.labels.LabelAtom
import hudson.model.listeners.RunListener
import hudson.model.queue.CauseOfBlockage
import hudson.model.queue.QueueListener
import hudson.model.queue.QueueTaskDispatcher
import hudson.model.queue.SubTask
import hudson.model.queue.WorkUnit
import hudson.model.queue.WorkUnitContext
import hudson.remoting.AsyncFutureImpl
import hudson.remoting.Callable
import hudson.remoting.Channel
import hudson.remoting.VirtualChannel
import hudson.security.ACL
import hudson.security.ACLContext
import hudson.slaves.Cloud
import hudson.slaves.ComputerLauncher
import hudson.slaves.ComputerListener
import hudson.slaves.DumbSlave
import hudson.slaves.JNLPLauncher
import hudson.slaves.OfflineCause
import hudson.slaves.RetentionStrategy
import hudson.slaves.SlaveComputer
import hudson.tasks.BuildWrapper
import hudson.tasks.Notifier
import java.lang.reflect.Constructor
import java.lang.reflect.Field
import java.lang.reflect.InvocationHandler
import java.lang.reflect.Method
import java.lang.reflect.Proxy
import java.nio.channels.ClosedChannelException
import java.util.concurrent.ConcurrentHashMap
import java.util.concurrent.ExecutionException
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit
import java.util.concurrent.TimeoutException
import java.util.concurrent.atomic.AtomicInteger
import java.util.concurrent.atomic.AtomicLong
import java.util.logging.Level
import java.util.logging.Logger
import java.util.regex.Matcher
import java.util.regex.Pattern
import jenkins.model.CauseOfInterruption
import jenkins.model.InterruptedBuildAction
import jenkins.model.Jenkins
import jenkins.model.NodeListener
import org.kohsuke.stapler.StaplerRequest
import org.kohsuke.stapler.StaplerResponse

String PROVISIONER_BRIDGE_PARAMETERS = 'e30='

/** Thrown by an op that cannot be done; becomes its result. */
@CompileStatic
class ProvisionerBridgeRefusal extends RuntimeException {
    final int code

    ProvisionerBridgeRefusal(int code, String message) {
        super(message)
        this.code = code
    }
}
