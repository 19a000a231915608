// Gives the account `provisioner` its API token, and writes it where only the sidecar reads it.
// A token that the account still has is kept: the sidecar goes on over a restart of Jenkins.
import hudson.model.User
import java.nio.file.Files
import java.nio.file.StandardCopyOption
import java.nio.file.attribute.PosixFilePermissions
import jenkins.security.ApiTokenProperty

def file = new File(System.getenv('TOKEN_FILE')).toPath()
def account = User.getById('provisioner', false)
if (account == null) throw new IllegalStateException('there is no account `provisioner`; see jenkins.yaml')
def tokens = account.getProperty(ApiTokenProperty)?.tokenStore
if (tokens == null) {
    account.addProperty(new ApiTokenProperty())
    tokens = account.getProperty(ApiTokenProperty).tokenStore
}
if (Files.exists(file) && tokens.findMatchingToken(file.toFile().text.trim()) != null) return

def made = tokens.generateNewToken('sidecar')
account.save()
// readable for the group, which the sidecar is in; complete at the moment when it appears under its name
def mode = PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString('r--r-----'))
def half = file.resolveSibling('.token')
Files.deleteIfExists(half)
Files.write(half, new byte[0])
Files.setPosixFilePermissions(half, mode.value() + PosixFilePermissions.fromString('rw-r-----'))
half.toFile().text = made.plainValue
Files.move(half, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING)
